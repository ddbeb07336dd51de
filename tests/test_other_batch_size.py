"""A run that goes on with another batch size takes each query of its epoch once, validates behind it, and counts on as
if the epoch had had that size from the start. In this process, on toys.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_resume_properties import fit
from toys import ToyData

from lightning_paras2s.running.loaders import ResumableLoader

SIZE = 16
SEEN: list[list[int]] = []


class Data(ToyData):
    """Notes each batch of training."""

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(range(SIZE), self.note, self.batch_size, seed=3)

    def note(self, items: list[int]):
        SEEN.append([int(i) for i in items])
        return self.collate(items)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def batches(version: str, size: int, steps: int, *options: str) -> list[list[int]]:
    SEEN.clear()
    given = (f"--data={__name__}.Data", f"--data.batch_size={size}", f"--trainer.max_steps={steps}")
    fit("sft", version, "--checkpoint.every_n_batches=1", "--trainer.max_epochs=2", *given, *options)
    return SEEN.copy()


def validated(version: str) -> list[int]:
    """The steps behind which there was a validation."""
    lines = map(json.loads, Path(f"runs/sft/{version}/metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if "val/loss" in line]


# sizes before and behind, batches before -> batches behind in the first epoch, steps of the validations at epochs' ends
CHANGES = {
    "larger": (2, 4, 3, 2, [4, 8]),
    "smaller": (4, 2, 2, 4, [5, 13]),
    "larger at an epoch's end": (2, 4, 8, 0, [7, 11]),
    "smaller at an epoch's end": (4, 2, 4, 0, [3, 11]),
    "of another remainder": (5, 3, 1, 3, [3, 8]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_queries_of_a_run_when_it_goes_on_with_another_batch_size(change: str):
    """Those of 16 that make no whole batch at the end are left out, as in any epoch."""
    first, second, steps, behind, expected = CHANGES[change]
    order = ResumableLoader(range(SIZE), list, first, seed=3).order(0, first).tolist()
    before = batches("a", first, steps)
    after = batches("a", second, -1)
    taken, size = steps * first, behind * second
    assert sum(before, []) == order[:taken]
    assert sum(after[:behind], []) == order[taken : taken + size] and SIZE - taken - size < second
    epoch = ResumableLoader(range(SIZE), list, second, seed=3).order(1, second).tolist()
    assert sum(after[behind:], []) == epoch[: SIZE // second * second]
    assert validated("a") == expected


def test_validation_within_an_epoch_when_it_goes_on_with_another_batch_size():
    """Behind half of the queries, and behind all: two batches of 2 count as one of 4, of which three are left."""
    batches("a", 2, 2, "--trainer.val_check_interval=0.5", "--trainer.max_epochs=1")
    batches("a", 4, -1, "--trainer.val_check_interval=0.5", "--trainer.max_epochs=1")
    assert validated("a") == [2, 4]


def test_queries_when_epochs_are_limited_and_the_batch_size_is_another():
    """Two batches an epoch: of one of 4 that is taken and 8 queries at most, one of 4 is left."""
    order = ResumableLoader(range(SIZE), list, 2, seed=3).order(0, 2).tolist()
    batches("a", 2, 1, "--trainer.limit_train_batches=2")
    after = batches("a", 4, -1, "--trainer.limit_train_batches=2")
    assert after[0] == order[2:6] and len(after) == 1 + 2


REFUSED = {
    "none is left": (2, 8, 7, (), "must have a whole batch of it left; got 2 queries for batches of 8; go on with a"),
    "half a step": (2, 4, 2, ("--trainer.accumulate_grad_batches=2",), "must leave whole optimizer steps of 2 batches"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_other_batch_size_is_refused(reason: str, capsys):
    """And the run's log stays as it is."""
    first, second, steps, options, line = REFUSED[reason]
    batches("a", first, steps - (reason == "half a step"), *options)
    log = Path("runs/sft/a/metrics.jsonl").read_text()
    with pytest.raises(SystemExit) as stop:
        batches("a", second, -1, *options)
    assert stop.value.code == 2 and line in " ".join(capsys.readouterr().err.split())
    assert Path("runs/sft/a/metrics.jsonl").read_text() == log
    assert batches("a", first, -1, *options)
