"""A rollout in parts, spoken and scored beside the sampling: the same numbers, and what a thread must take along."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_grpo_module import Unscored, train, weights
from test_runs import cli, toy_config
from toys import ToyData, ToyLM

from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.rewards import TokenCountReward
from lightning_paras2s.models.speech_lm import Completion, Streams, sampling_noise
from lightning_paras2s.modules.beside import Clock, Follower, in_parts, joined
from lightning_paras2s.modules.grpo import GRPOModule

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


def results(module: GRPOModule) -> dict[str, float]:
    """What the last step logged, without what a clock says."""
    found = module.trainer.callback_metrics
    return {k: float(v) for k, v in found.items() if not k.startswith(("seconds", "share", "train/tokens_per"))}


@pytest.mark.parametrize("overlap", ["always", "never", "auto"])
def test_parts_change_no_number(overlap: str, tmp_path: Path) -> None:
    """Three steps of eight queries in one part, and in three; bit by bit, also in a thread, which the first rollout
    does not have.
    """
    whole = train(lambda: Loud(2), 3, tmp_path, lr=1e-2)
    Loud.threads.clear()
    parts = train(lambda: Loud(2), 3, tmp_path, lr=1e-2, rollout_parts=3, overlap=overlap)
    assert torch.equal(weights(whole), weights(parts))
    assert torch.equal(whole.last_rollout[1], parts.last_rollout[1])
    first, then = (module.last_rollout[0] for module in (whole, parts))
    assert torch.equal(first.completion.tokens, then.completion.tokens)
    assert [r.text for r in first.responses] == [r.text for r in then.responses]
    assert results(whole) == results(parts) and results(whole)["train/loss"] != 0
    here = threading.current_thread().name
    assert here in Loud.threads and (len(Loud.threads - {here}) == 2) == (overlap == "always")


class Meeting(TokenCountReward):
    """A part's reward waits until the policy samples the next part, if there is one; `notes` tells what came when."""

    def __init__(self, notes: list[str], sampling: list[threading.Event]) -> None:
        super().__init__(2)
        self.notes, self.sampling, self.parts = notes, sampling, 0

    def score(self, batch, responses):
        self.parts += 1
        if self.parts < len(self.sampling):
            assert self.sampling[self.parts].wait(20), "the next part is not sampled meanwhile"
        self.notes.append(f"scored {self.parts - 1}")
        return super().score(batch, responses)


def test_the_next_part_is_sampled_while_one_is_scored(monkeypatch) -> None:
    """In order, the reward would wait for ever."""
    module = GRPOModule(ToyLM, lambda: None, rollout_parts=4, overlap="always")
    data, notes = ToyData(labelled=False), []
    reward, policy = Meeting(notes, sampling := [threading.Event() for _ in range(4)]), ToyLM()
    left = iter(sampling)

    def sample(batch, noise) -> Completion:
        next(left).set()
        notes.append("sampled")
        return policy.generate(batch.prompt, module.sampling, noise, 2)

    def score(batch, completion):
        return reward.score(batch, data.processor.speak(completion, False))

    noise = sampling_noise(0, 0, 8, module.sampling.max_steps)
    completions, scores = in_parts(data.collate([0, 1, 2, 3]), noise, 4, sample, score, module.overlap)
    assert [len(c) for c in completions] == [len(s) for s in scores] == [2] * 4
    assert [note for note in notes if note != "sampled"] == [f"scored {i}" for i in range(4)]
    assert notes.index("scored 0") >= 2 and notes[-1] == "scored 3"


class Broken(TokenCountReward):
    """Fails at one call; counts all."""

    calls = 0

    def __init__(self, at: int) -> None:
        super().__init__(2)
        Broken.calls, self.at = 0, at

    def score(self, batch, responses):
        Broken.calls += 1
        if Broken.calls == self.at:
            raise UserError("the judge must answer; got silence; ask it")
        return super().score(batch, responses)


@pytest.mark.parametrize("overlap", ["always", "never"])
def test_a_reward_that_fails_ends_the_step_and_no_later_part_is_scored(overlap: str, tmp_path: Path) -> None:
    """In the second of two rollouts of four parts, the second part: the sixth call is the last."""
    with pytest.raises(UserError, match="the judge must answer; got silence; ask it"):
        train(lambda: Broken(6), 2, tmp_path, rollout_parts=4, overlap=overlap)
    assert Broken.calls == 6
    assert not [t for t in threading.enumerate() if "ThreadPool" in t.name]  # nothing goes on behind the error


def test_killed_while_a_part_is_scored_and_resumed_it_ends_as_one_that_ran_in_order(tmp_path: Path) -> None:
    """Ten rollouts of two parts; the fifteenth answers are being scored when it is killed, in a thread."""
    config = json.loads(toy_config("grpo"))
    deadly = {"class_path": "toys.DeadlyReward", "init_args": {"token": 2, "call": 15, "marker": "killed"}}
    never = deadly | {"init_args": deadly["init_args"] | {"call": 0}}
    config["model"]["init_args"] |= {"rollout_parts": 2, "overlap": "never", "reward": never}
    (tmp_path / "whole.yaml").write_text(json.dumps(config))
    config["model"]["init_args"] |= {"overlap": "always", "reward": deadly}
    (tmp_path / "cut.yaml").write_text(json.dumps(config))
    run = ("--trainer.logger.version",)
    assert cli(tmp_path, "fit", "--config", "whole.yaml", *run, "whole").returncode == 0
    assert cli(tmp_path, "fit", "--config", "cut.yaml", *run, "cut").returncode == -9
    resumed = cli(tmp_path, "fit", "--config", "cut.yaml", *run, "cut")
    assert resumed.returncode == 0, resumed.stderr
    whole, cut = (load_file(tmp_path / "runs/grpo" / v / "policy.safetensors") for v in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_unscored_answers_are_counted_over_all_parts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got 50%"):
        train(lambda: Unscored(2), 1, tmp_path, max_unscored=0.4, rollout_parts=4)
    with pytest.raises(UserError, match="rollout_parts must be at least 1; got 0"):
        train(lambda: Unscored(2), 1, tmp_path, rollout_parts=0)
    with pytest.raises(UserError, match="overlap: always needs a rollout in parts.*; got rollout_parts 1"):
        train(lambda: Unscored(2), 1, tmp_path, overlap="always")
    with pytest.raises(UserError, match="overlap must be one of auto, always, never; got 'on'"):
        train(lambda: Unscored(2), 1, tmp_path, overlap="on")


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


def test_what_waits_behind_an_error_is_not_begun() -> None:
    gate, begun = threading.Event(), []

    def fails() -> None:
        gate.wait(5)
        raise ZeroDivisionError

    with Follower(CPU, beside=True) as follower:
        follower.follow(fails)
        behind = follower.follow(begun.append, "behind")
        gate.set()
        with pytest.raises(ZeroDivisionError):
            behind()
        with pytest.raises(ZeroDivisionError):
            follower.follow(begun.append, "later")
    assert begun == []


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
