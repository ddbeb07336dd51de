"""Ranks that end together and speak once, without a network: the two-process tests are in test_fsdp.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

from lightning_paras2s.errors import UserError
from lightning_paras2s.running import ranks
from lightning_paras2s.running.ranks import EndTogether, one_voice


def watcher(rank: int, world_size: int = 3) -> EndTogether:
    callback = EndTogether(every_seconds=1.0, patience_seconds=3.0)
    callback.rank, callback.world_size, callback.store = rank, world_size, dist.HashStore()
    return callback


def test_a_rank_is_missed_when_its_heart_stands_still_for_longer_than_the_patience():
    """Four beats of one second without any from rank 2 are more than 3 s; a first look is no such beat."""
    callback, heard, missed = watcher(rank=0), {}, []
    for _ in range(5):
        callback.store.add("beat/1", 1)
        missed.append(callback.silent_rank(heard))
    assert missed == [None, None, None, None, 2]


def test_a_rank_other_than_the_first_looks_at_the_first_alone():
    callback, heard = watcher(rank=1), {}
    assert [callback.silent_rank(heard) for _ in range(5)] == [None] * 4 + [0]


@pytest.mark.parametrize("rank, tells", [(0, True), (1, False)])
def test_a_mistake_is_told_by_rank_0_alone(rank, tells, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", rank, raising=False)
    with pytest.raises(UserError if tells else SystemExit) as stop, one_voice(grace_seconds=0):
        raise UserError("a config must be right; got a wrong one; mend it")
    assert tells or stop.value.code == 2


def test_a_bug_is_told_by_every_rank(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    with pytest.raises(ZeroDivisionError), one_voice(grace_seconds=0):
        1 / 0  # noqa: B018


class StoreOfAnImpatientRank:
    """It ends with rank 0, which leaves as soon as rank 1 has set what it waits for."""

    def __init__(self) -> None:
        self.store, self.gone = dist.HashStore(), False

    def __getattr__(self, name):
        if self.gone:
            raise RuntimeError("the connection was closed")
        return getattr(self.store, name)

    def set(self, key, value):
        if self.gone:
            raise RuntimeError("the connection was closed")
        self.store.set(key, value)
        self.gone = key == "failed/1"


@pytest.mark.parametrize("other, told", [("the same", ""), ("another", "error: the same")])
def test_a_rank_has_read_and_told_before_rank_0_may_leave(other, told, monkeypatch, capsys):
    """Rank 0 waits for the others' word, and takes the store along: a slow rank then knew no better than to tell."""
    callback = watcher(rank=1, world_size=2)
    callback.store, when_free = StoreOfAnImpatientRank(), []
    callback.store.set("failed/0", f'"UserError: {other}"')
    monkeypatch.setattr(ranks, "leave", lambda code: when_free.append((code, callback.store.gone)))
    monkeypatch.setattr(ranks.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(ranks.dist, "is_initialized", lambda: True)
    callback.on_exception(SimpleNamespace(world_size=2), None, UserError("the same"))
    assert capsys.readouterr().err.strip() == told
    assert when_free == [(2, True)]
