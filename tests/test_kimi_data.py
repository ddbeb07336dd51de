"""Recordings to Kimi-Audio's batches, on the tiny golden parts."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from test_kimi_audio import tiny_config
from test_kimi_tokenizer import tokenizer  # noqa: F401

from lightning_paras2s.audio import write_audio
from lightning_paras2s.data.datamodule import DualStreamDataModule
from lightning_paras2s.data.sources import ManifestDialogues
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.processor import KimiProcessor
from lightning_paras2s.models.qwen_omni.processor import QwenOmniProcessor
from lightning_paras2s.models.qwen_omni.scorer import audio_tokens
from lightning_paras2s.models.speech_lm import AUDIO, TEXT
from lightning_paras2s.models.tiny.processor import TinyProcessor
from lightning_paras2s.types import Audio


class Bytes:
    """A stand-in for the released text tokenizer: a word's length is its id."""

    def encode(self, text):
        return [len(word) for word in text.split()]


@pytest.fixture
def folder(tmp_path):
    """Queries of 0.3 s and 0.5 s, answers of 0.4 s each."""
    queries, answers = [], []
    for i, seconds in enumerate((0.3, 0.5)):
        for name, length in ((f"q{i}.wav", seconds), (f"a{i}.wav", 0.4)):
            noise = np.random.default_rng(i).standard_normal(int(16_000 * length)).astype(np.float32) * 0.1
            write_audio(tmp_path / name, Audio(noise, 16_000))
        queries.append(
            {"id": f"q{i}", "pair_id": "p", "factor": "emotion", "split": "train", "text": "hi", "topic": "t"}
        )
        queries[-1] |= {"styles": {"emotion": "sad"}, "audio": f"q{i}.wav"}
        answers.append({"query_id": f"q{i}", "system": "demo", "audio": f"a{i}.wav", "text": "so sorry"})
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers))
    return tmp_path


class TinyKimi(KimiProcessor):
    """On the tiny golden parts."""

    def __init__(self, parts):
        self.config, self.text, self.parts = parts.config, Bytes(), parts

    ears = voice = property(lambda self: self.parts)


def data(folder, tokenizer, answers=None):  # noqa: F811
    path = str(folder / "q.jsonl")
    source = ManifestDialogues(path, None, answers)
    module = DualStreamDataModule(source, TinyKimi(tokenizer), labelled=answers is not None, batch_size=2)
    module.setup()
    return module


def test_batch_is_left_padded_prompts_and_right_padded_answers(folder, tokenizer):  # noqa: F811
    """0.3 s = 4800 samples = 4 codes, 0.5 s = 7 codes; 6 marks each. 0.4 s = 5 codes: 6 blanks + 5 + the end = 12
    steps.
    """
    module = data(folder, tokenizer, str(folder / "a.jsonl"))
    raw = next(iter(module.predict_dataloader()[0]))
    batch = module.transfer_batch_to_device(raw, torch.device("cpu"), 0)
    config = tiny_config()
    assert batch.prompt.tokens.shape == (2, 2, 13) and batch.prompt.mask.sum(1).tolist() == [10, 13]
    assert batch.prompt.features_mask.sum(1).tolist() == [4, 7]
    assert batch.prompt.tokens[0, AUDIO, :4].tolist() == [config.blank] * 3 + [config.user_start]
    assert batch.completion.tokens.shape == (2, 2, 12)
    assert batch.completion.tokens[0, TEXT, :3].tolist() == [2, 5, config.text_eos]
    assert batch.completion.actions.sum((1, 2)).tolist() == [3 + 6, 3 + 6]
    assert [q.id for q in batch.queries] == ["q0", "q1"]


def test_lengths_are_positions_and_count_what_is_learned(folder, tokenizer):  # noqa: F811
    """Of 0.3 and 0.5 s of query at 12.5 a second, and 0.4 s of answer where it is learned: batches are sorted with a
    noise of 12 positions, against which seconds would be nothing. The Omni hears 25 a second.
    """
    labelled, alone = data(folder, tokenizer, str(folder / "a.jsonl")), data(folder, tokenizer)
    assert list(labelled.train.lengths) == pytest.approx([12.5 * 0.7, 12.5 * 0.9])
    assert list(alone.train.lengths) == pytest.approx([12.5 * 0.3, 12.5 * 0.5])
    assert [alone.processor.length(alone.train[i]) for i in (0, 1)] == pytest.approx(alone.train.lengths)
    dialogues = ManifestDialogues(str(folder / "q.jsonl"), None).dialogues("train", "")
    heard = QwenOmniProcessor("models/Omni").prepare(dialogues, False, "")
    assert list(heard.lengths) == pytest.approx([audio_tokens(30), audio_tokens(50)], abs=1)
    # answers that are learned as tokens: rejection sampling
    assert heard.answered([100, 7]) == pytest.approx([heard.lengths[0] + 100, heard.lengths[1] + 7])


def test_reinforcement_learning_sees_queries_alone(folder, tokenizer):  # noqa: F811
    module = data(folder, tokenizer)
    batch = module.transfer_batch_to_device(next(iter(module.train_dataloader())), torch.device("cpu"), 0)
    assert batch.completion is None and len(batch) == 2 and batch.audios[0].sample_rate == 16_000


def test_answers_must_be_there_for_every_query(folder, tokenizer):  # noqa: F811
    (folder / "a.jsonl").write_text((folder / "a.jsonl").read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="'q1' has no answer"):
        data(folder, tokenizer, str(folder / "a.jsonl"))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"status": "truncated"}, "a.jsonl:3: an answer to learn must have the status ok; got 'truncated'"),
        ({"text": None}, "a.jsonl:3: an answer to learn must have its words as text; got None"),
        ({"text": " - "}, "a.jsonl:3: an answer to learn must have its words as text"),
        ({}, "a.jsonl:3: a query must have one answer to learn; got a second one to 'q0'"),
    ],
)
def test_answers_that_are_none_to_learn(changes, said, folder):
    row = {"query_id": "q0", "system": "demo", "sample": 1, "audio": "a0.wav", "text": "oh", **changes}
    with (folder / "a.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=said):
        ManifestDialogues(str(folder / "q.jsonl"), None, str(folder / "a.jsonl")).dialogues("train", "")


def test_queries_of_the_split_test_are_not_trained_on(folder):
    path = folder / "q.jsonl"
    path.write_text(path.read_text().replace('"train"', '"test"'))
    with pytest.raises(UserError, match="q.jsonl:1: a query to train on must not be of the split test; got 'q0'"):
        ManifestDialogues(str(path)).dialogues("train", "")
    assert len(ManifestDialogues(str(path), str(path)).dialogues("val", "")) == 2


def test_answers_that_the_embedded_text_stream_cannot_spell(folder):
    path = folder / "a.jsonl"
    path.write_text(path.read_text().replace("so sorry", "you have 42 of them"))
    source = ManifestDialogues(str(folder / "q.jsonl"), None, str(path))
    with pytest.raises(UserError, match="must be spelt with the letters a to z; got '42' in the one to 'q0'"):
        DualStreamDataModule(source, TinyProcessor()).setup()


def test_training_and_validation_must_not_share_queries(folder, tokenizer):  # noqa: F811
    path = str(folder / "q.jsonl")
    module = DualStreamDataModule(ManifestDialogues(path, path), TinyKimi(tokenizer), labelled=False, batch_size=2)
    with pytest.raises(UserError, match="training and validation must not share queries; got 'q0'"):
        module.setup("fit")


def test_query_must_fit_before_any_weight_is_read(folder):
    """4 s are 50 codes and 6 marks, 56 positions, behind which 40 steps must fit: 96."""
    write_audio(folder / "q1.wav", Audio(np.full(64_000, 0.1, np.float32), 16_000))
    dialogues = ManifestDialogues(str(folder / "q.jsonl")).dialogues("train", "")
    processor = KimiProcessor("nowhere", "nowhere")
    processor.config = dataclasses.replace(tiny_config(), max_position_embeddings=95)
    with pytest.raises(UserError, match="must fit in 95 positions .* got 96 for 'q1'"):
        processor.check(dialogues, False, 40)
