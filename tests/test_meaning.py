"""Duplicates by meaning: which vectors are near, the mean over a text's tokens, and what `mine` then leaves out."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from lightning_paras2s.bench.queries.duplicates import first_of_each, near_in_meaning
from lightning_paras2s.bench.queries.meaning import SentenceBERT, TextEmbedder
from lightning_paras2s.bench.queries.mine import deduplicate, mine
from lightning_paras2s.bench.queries.three_tests import Candidate
from lightning_paras2s.errors import UserError

TEXTS = ["rent a boat", "the boat", "a"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "rent", "a", "boat", "the"]


def at(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def test_texts_are_near_when_their_vectors_are_within_an_angle(monkeypatch):
    vectors = np.array([at(0), at(90), at(20), at(39), at(91)])  # cos 20 = 0.940, cos 19 = 0.946, cos 1 = 1.000
    near = [(0, 2), (1, 4), (2, 3)]
    assert near_in_meaning(vectors, math.cos(math.radians(20.1))) == near
    monkeypatch.setattr("lightning_paras2s.bench.queries.duplicates.CHUNK", 2)
    assert near_in_meaning(vectors, math.cos(math.radians(20.1))) == near
    assert near_in_meaning(vectors, math.cos(math.radians(19.5))) == [(1, 4), (2, 3)]


def test_an_earlier_text_is_kept_when_two_mean_the_same():
    texts = ["Rent me a boat.", "How old is Rome?", "I'd like to go rowing, so find one.", "Rent me a bike."]
    assert first_of_each(texts) == [None, None, None, 0]  # one word
    assert first_of_each(texts, more=[(0, 2)]) == [None, None, 0, 0]


class ByLength(TextEmbedder):
    """Texts as long as each other mean the same."""

    def embed(self, texts):
        return np.array([at(len(text)) for text in texts])


def test_test_keeps_what_train_says_in_other_words():
    texts = {"a": ("Find a rowing boat.", "train"), "b": ("I'd like to paddle!", "test"), "c": ("Sunny.", "train")}
    assert len(texts["a"][0]) == len(texts["b"][0])
    made = [Candidate(n, "emotion", s, "Travel", t, ("happy", "sad")) for n, (t, s) in texts.items()]
    assert [c.status for c in deduplicate(made)] == ["open"] * 3
    first, *others = deduplicate(made, ByLength(), math.cos(math.radians(1)))
    assert (first.status, first.why) == ("rejected", "duplicate: of b (I'd like to paddle!)")
    assert [c.status for c in others] == ["open"] * 2


@pytest.mark.parametrize("cosine", [0.0, 1.1, math.nan])
def test_a_least_cosine_that_is_none_is_refused(cosine, tmp_path):
    with pytest.raises(UserError, match="min_cosine must be above 0 and at most 1"):
        mine(str(tmp_path), min_cosine=cosine)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As sentence-transformers writes it: transformers' own files, and a folder that names the pooling."""
    from transformers import BertConfig, BertModel, BertTokenizer

    path = tmp_path_factory.mktemp("models") / "tiny"
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(5)
    BertModel(
        BertConfig(vocab_size=len(WORDS), **sizes, max_position_embeddings=12, initializer_range=0.5)
    ).save_pretrained(path)
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(path)
    (path / "1_Pooling").mkdir()
    pool(path, {"word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True})
    return path


def pool(path, config) -> None:
    (path / "1_Pooling/config.json").write_text(json.dumps(config))


def test_an_embedding_is_the_mean_of_a_texts_own_tokens(folder):
    from transformers import BertModel

    model, wanted = BertModel.from_pretrained(folder).eval(), []
    for text in TEXTS:  # one at a time, so without padding
        ids = torch.tensor([[WORDS.index(word) for word in ("[CLS]", *text.split(), "[SEP]")]])
        with torch.no_grad():
            mean = model(ids).last_hidden_state[0].mean(0)
        wanted.append((mean / mean.norm()).numpy())
    assert SentenceBERT(str(folder)).embed(TEXTS) == pytest.approx(np.array(wanted), abs=1e-5)
    assert SentenceBERT(str(folder), batch_size=2).embed(TEXTS) == pytest.approx(np.array(wanted), abs=1e-5)


def test_a_text_longer_than_the_model_is_cut(folder):
    assert SentenceBERT(str(folder)).embed(["a " * 40])[0] == pytest.approx(
        SentenceBERT(str(folder)).embed(["a " * 10])[0], abs=1e-5
    )  # 12 positions: [CLS], ten words, [SEP]


def test_a_model_that_pools_otherwise_is_refused(folder):
    pool(folder, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    with pytest.raises(UserError, match="must take the mean over tokens"):
        SentenceBERT(str(folder))
    pool(folder, {"pooling_mode": "mean"})  # as sentence-transformers 5 writes it
    assert SentenceBERT(str(folder)).embed(["boat"]).shape == (1, 16)
