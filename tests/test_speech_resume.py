"""The stages that train ears and the codec go on as the others do: each epoch has an order of its own, and a run that
was killed in the middle of one ends with the same bits. In this process, on toys.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from test_resume_properties import Killed, end
from torch import Tensor

from lightning_paras2s.cli import main
from lightning_paras2s.data.dialogue import Utterance
from lightning_paras2s.data.speech import SpeechDataModule
from lightning_paras2s.hearing.polytone import NOTHING
from lightning_paras2s.modules.labelled import FactorBatches, Labelled
from lightning_paras2s.modules.speech import SpeechPartModule
from lightning_paras2s.types import Style

SIZE = 13
SEEN: list[list[int]] = []


class Factors(FactorBatches):
    """Recordings 0 to 12, of two factors; the number is the recording."""

    def __init__(self, batch_size: int = 3, seed: int = 1) -> None:
        super().__init__(batch_size, seed)
        heard = [NOTHING._replace(words=i) for i in range(SIZE)]
        self.train = [Labelled(h, ("age", "emotion")[i % 2], "") for i, h in enumerate(heard)]
        self.val = self.train[:2]

    def collate(self, rows: list[Labelled]) -> list[int]:
        return [row.heard.words for row in rows]


class Utterances(SpeechDataModule):
    """Utterances 0 to 12; the text is the number."""

    def __init__(self, batch_size: int = 3, seed: int = 1) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        frames = [np.zeros((i + 1, 66), np.float16) for i in range(SIZE)]
        self.train = [Utterance(f, str(i), Style(), ()) for i, f in enumerate(frames)]
        self.val_queries = self.val_responses = self.train[:2]

    def prepare_data(self) -> None:
        """Nothing is spoken."""


class Sum(SpeechPartModule):
    """Its weights tell the order of what it saw."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr, 2, "")
        self.network = torch.nn.Linear(SIZE, 1)

    def numbers(self, batch: list[int] | dict) -> list[int]:
        return batch if type(batch) is list else [int(text) for text in batch["texts"]]

    def training_step(self, batch: list[int] | dict, batch_idx: int) -> Tensor:
        SEEN.append(self.numbers(batch))
        seen = torch.zeros(SIZE)
        seen[SEEN[-1]] = 1.0
        loss = (self.network(seen) - 1).square().sum()
        self.log("train/loss", loss, batch_size=1)
        return loss

    def validation_step(self, batch: list[int] | dict, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log(f"val/{dataloader_idx}", float(len(self.numbers(batch))), batch_size=1, add_dataloader_idx=False)


def fit(data: type, version: str, *options: str) -> list[list[int]]:
    """The batches of a run, in the working directory."""
    SEEN.clear()
    trainer = {"accelerator": "cpu", "devices": 1, "max_steps": 18, "max_epochs": -1, "log_every_n_steps": 1}
    trainer |= {"logger": "RunLogger", "logger.version": version, "enable_model_summary": "false"}
    common = [f"--trainer.{name}={value}" for name, value in trainer.items()]
    common += [f"--model={__name__}.Sum", f"--data={__name__}.{data.__name__}", "--progress.refresh_rate=0"]
    try:
        main(["fit", *common, "--checkpoint.every_n_batches=2", *options])
    except Killed:
        pass
    return SEEN.copy()


def first_order(data: L.LightningDataModule) -> list[list[int]]:
    """The batches of epoch 0 as the shipped weights' training cut them."""
    if isinstance(data, Factors):
        random, batches = np.random.default_rng([1, 0]), []
        for factor in ("age", "emotion"):
            order = random.permutation([i for i in range(SIZE) if data.train[i].factor == factor])
            batches += [order[i : i + 3].tolist() for i in range(0, len(order), 3)]
        return [batches[i] for i in random.permutation(len(batches))]
    generator = torch.Generator().manual_seed(1000)
    jitter = torch.rand(SIZE, generator=generator) * 40
    order = sorted(range(SIZE), key=lambda i: i + 1 + float(jitter[i]))
    batches = [order[i : i + 3] for i in range(0, SIZE, 3)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("data", [Factors, Utterances])
def test_order_of_speech_when_epochs_follow_each_other(data: type):
    """Every epoch holds each recording once, and is shuffled anew; the first is the one of before."""
    batches = fit(data, "whole")
    size = len(first_order(data()))
    epochs = [batches[i : i + size] for i in range(0, 3 * size, size)]
    assert epochs[0] == first_order(data())
    assert all(sorted(sum(epoch, [])) == list(range(SIZE)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


@pytest.mark.parametrize("data", [Factors, Utterances])
@pytest.mark.parametrize("batch", [8, 10, 17])
def test_speech_when_killed_and_resumed(data: type, batch: int):
    """In the middle of the second epoch of five batches, at its end, and in the last batch."""
    whole = fit(data, "whole")
    fit(data, "cut", *end(batch, False))
    resumed = fit(data, "cut")
    assert resumed == whole[batch // 2 * 2 :]
    paths = [f"runs/default/{version}/checkpoints/step-00000018.ckpt" for version in ("whole", "cut")]
    states = [torch.load(path, weights_only=False)["state_dict"] for path in paths]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_speech_goes_on_when_its_epochs_are_raised():
    """The third epoch of a run that had ended after two is the third of a run of three."""
    three = ["--trainer.max_steps=-1", "--trainer.max_epochs=3"]
    whole = fit(Factors, "whole", *three)
    fit(Factors, "cut", *three[:1], "--trainer.max_epochs=2")
    assert fit(Factors, "cut", *three) == whole[10:]


def test_speech_is_refused_when_it_goes_on_with_another_batch_size(capsys):
    """In the middle of an epoch, whose batches were cut with the old one."""
    fit(Factors, "cut", *end(8, False))
    with pytest.raises(SystemExit) as stop:
        fit(Factors, "cut", "--data.batch_size=4")
    told = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 2 and "data.batch_size must be 3 until this run's epoch ends; got 4; " in told


def test_speech_goes_on_at_the_rate_that_is_asked_for():
    """A checkpoint's rate does not win: from the step after it each is ten times smaller."""
    fit(Utterances, "whole")
    fit(Utterances, "cut", *end(8, False))
    fit(Utterances, "cut", "--model.lr=0.01")
    logs = [Path(f"runs/default/{version}/metrics.jsonl").read_text().splitlines() for version in ("whole", "cut")]
    rates = [[row["train/lr"] for row in map(json.loads, log) if "train/lr" in row] for log in logs]
    assert rates[0][:3] == pytest.approx([0.05, 0.1, 0.1]) and rates[0][-1] < 0.004
    assert rates[1] == pytest.approx([rate / (1 if step < 8 else 10) for step, rate in enumerate(rates[0])])


def test_shares_of_speech_when_there_are_two_ranks():
    """Of five batches each rank takes two, of one global batch each; an incomplete one would leave a rank behind."""
    data, taken = Factors(), []
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        taken.append(list(data.train_dataloader()))
    first = first_order(data)
    assert taken == [first[0:4:2], first[1:4:2]]
