"""A rollout in parts, spoken and scored beside the sampling: the same numbers, and what a thread must take along."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from test_grpo_module import Unscored, train, weights

from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.rewards import TokenCountReward
from lightning_paras2s.models.speech_lm import Completion, Streams
from lightning_paras2s.modules import grpo
from lightning_paras2s.modules.beside import Clock, Follower, in_parts, joined

CPU = torch.device("cpu")


class Loud(TokenCountReward):
    """Hears the waveform, too, and says where it was asked."""

    needs_audio = True
    threads: set[str] = set()

    def score(self, batch, responses):
        self.threads.add(threading.current_thread().name)
        assert len(batch.queries) * 4 == len(responses) and not torch.is_grad_enabled()
        seconds = torch.tensor([r.audio.seconds for r in responses])
        return super().score(batch, responses) + seconds


@pytest.mark.parametrize("beside", [False, True])
def test_parts_change_no_number(beside: bool, tmp_path: Path, monkeypatch) -> None:
    """Two steps of eight queries in one part, and in three; bit by bit, also in a thread."""
    whole = train(lambda: Loud(2), 2, tmp_path, lr=1e-2)
    Loud.threads.clear()
    monkeypatch.setattr(grpo, "in_parts", partial(in_parts, beside=beside))
    parts = train(lambda: Loud(2), 2, tmp_path, lr=1e-2, rollout_parts=3)
    assert torch.equal(weights(whole), weights(parts))
    assert torch.equal(whole.last_rollout[1], parts.last_rollout[1])
    first, then = (module.last_rollout[0] for module in (whole, parts))
    assert torch.equal(first.completion.tokens, then.completion.tokens)
    assert [r.text for r in first.responses] == [r.text for r in then.responses]
    assert (threading.current_thread().name in Loud.threads) != beside


def test_unscored_answers_are_counted_over_all_parts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got 50%"):
        train(lambda: Unscored(2), 1, tmp_path, max_unscored=0.4, rollout_parts=4)
    with pytest.raises(UserError, match="rollout_parts must be at least 1; got 0"):
        train(lambda: Unscored(2), 1, tmp_path, rollout_parts=0)


def test_what_follows_runs_beside_and_in_order_and_tells_its_errors() -> None:
    order, gate = [], threading.Event()

    def slow(name: str) -> str:
        gate.wait(5)
        order.append(name)
        return name

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), Follower(CPU, beside=True) as follower:
        first, second = follower.follow(slow, "a"), follower.follow(slow, "b")
        kind = follower.follow(lambda: (torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")))
        assert order == []  # the caller goes on
        gate.set()
        assert (first(), second(), order) == ("a", "b", ["a", "b"])
        assert kind() == (torch.bfloat16, True)
        wrong = follower.follow(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            wrong()
    with Follower(CPU, beside=False) as follower:
        follower.follow(order.append, "c")
        assert order[-1] == "c"  # at once


def test_shorter_parts_are_padded_with_blanks() -> None:
    def part(rows: int, steps: int) -> Completion:
        ones = torch.ones(rows, 2, steps)
        return Completion(ones.long(), ones.bool(), torch.ones(rows).bool(), -ones)

    found = joined([part(1, 2), part(2, 3)], Streams(7, 1, 9, 1, 0))
    assert found.tokens[0].tolist() == [[1, 1, 7], [1, 1, 9]] and found.tokens.shape == (3, 2, 3)
    assert found.actions[0].tolist() == [[True, True, False]] * 2 and found.logps[0, 0].tolist() == [-1, -1, 0]


def test_shares_are_of_the_step() -> None:
    clock = Clock()
    with clock.timed("step"):
        for _ in range(2):
            with clock.timed("decode"):
                time.sleep(0.01)
    found = clock.metrics()
    assert set(found) == {"seconds/step", "seconds/decode", "share/decode"}
    assert found["seconds/decode"] >= 0.02 and 0.5 < found["share/decode"] <= 1
