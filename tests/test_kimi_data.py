"""Recordings to Kimi-Audio's batches, on the tiny golden parts."""

import json

import numpy as np
import pytest
import torch
from test_kimi_audio import tiny_config
from test_kimi_tokenizer import tokenizer  # noqa: F401

from lightning_paras2s.audio import write_audio
from lightning_paras2s.data.kimi import KimiDataModule
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.speech_lm import AUDIO, TEXT
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


def data(folder, tokenizer, **more):  # noqa: F811
    path = str(folder / "q.jsonl")
    module = KimiDataModule(path, path, lambda: tokenizer, batch_size=2, **more)
    module.setup()
    return module


def test_batch_is_left_padded_prompts_and_right_padded_answers(folder, tokenizer):  # noqa: F811
    """0.3 s = 4800 samples = 4 codes, 0.5 s = 7 codes; 6 marks each. 0.4 s = 5 codes: 6 blanks + 5 + the end = 12
    steps.
    """
    module = data(folder, tokenizer, answers=str(folder / "a.jsonl"), text=Bytes)
    raw = next(iter(module.val_dataloader()))
    batch = module.transfer_batch_to_device(raw, torch.device("cpu"), 0)
    config = tiny_config()
    assert batch.prompt.tokens.shape == (2, 2, 13) and batch.prompt.mask.sum(1).tolist() == [10, 13]
    assert batch.prompt.features_mask.sum(1).tolist() == [4, 7]
    assert batch.prompt.tokens[0, AUDIO, :4].tolist() == [config.blank] * 3 + [config.user_start]
    assert batch.completion.tokens.shape == (2, 2, 12)
    assert batch.completion.tokens[0, TEXT, :3].tolist() == [2, 5, config.text_eos]
    assert batch.completion.actions.sum((1, 2)).tolist() == [3 + 6, 3 + 6]
    assert [q.id for q in batch.queries] == ["q0", "q1"]


def test_reinforcement_learning_sees_queries_alone(folder, tokenizer):  # noqa: F811
    module = data(folder, tokenizer)
    batch = module.transfer_batch_to_device(next(iter(module.train_dataloader())), torch.device("cpu"), 0)
    assert batch.completion is None and len(batch) == 2 and batch.audios[0].sample_rate == 16_000


def test_wrong_data_is_one_clear_line(folder, tokenizer):  # noqa: F811
    (folder / "a.jsonl").write_text((folder / "a.jsonl").read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="'q1' has no answer"):
        data(folder, tokenizer, answers=str(folder / "a.jsonl"), text=Bytes)
    with pytest.raises(UserError, match="data.answers without data.text"):
        data(folder, tokenizer, answers=str(folder / "a.jsonl"))


def test_fit_is_refused_when_validation_is_the_training_manifest(folder, tokenizer):  # noqa: F811
    path = str(folder / "q.jsonl")
    with pytest.raises(UserError, match="training and validation must not share queries; got 'q0'"):
        KimiDataModule(path, path, lambda: tokenizer, batch_size=2).setup("fit")
