"""What goes wrong in training is told and survived: seeds, gradients that are not finite, signals, folders and
loggers. In this process, on toys.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
from importlib.util import find_spec
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_resume_properties import Killed, end, fit, logged, weights
from toy_runs import refused, run
from toys import ToyData, ToyLM, quiet_trainer

from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.rewards import TokenCountReward
from lightning_paras2s.models.speech_lm import Sampling
from lightning_paras2s.modules.grpo import GRPOModule
from lightning_paras2s.running import checkpoints as saving
from lightning_paras2s.running.checkpoints import checkpoints
from lightning_paras2s.running.loaders import ResumableLoader

STAGES = ("sft", "reward", "grpo")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Sick(L.Callback):
    """Makes one number of the gradient NaN in some batches."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.first <= trainer.fit_loop.epoch_loop.total_batch_idx <= self.last:
            next(iter(pl_module.parameters())).grad.view(-1)[0] = torch.nan


class Explode(L.Callback):
    """Makes a weight infinite, as a step does that is too large."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_before_zero_grad(self, trainer: L.Trainer, pl_module: L.LightningModule, *args) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            next(iter(pl_module.parameters())).data.view(-1)[0] = torch.inf


DRAWN: list[float] = []


class Drawing(L.Callback):
    """Draws when an epoch begins, before a batch has seeded the generators anew, and in a validation."""

    def on_train_epoch_start(self, *_) -> None:
        DRAWN.append(float(torch.rand(1)))

    def on_validation_batch_start(self, *_) -> None:
        torch.rand(3)


class Term(L.Callback):
    """SIGTERM when a batch begins: a training batch, or the first of the validation behind it."""

    def __init__(self, batch: int, validating: bool = False) -> None:
        self.batch, self.validating = batch, validating

    def on_train_batch_start(self, trainer: L.Trainer, *args) -> None:
        self.term(trainer, False)

    def on_validation_batch_start(self, trainer: L.Trainer, *args) -> None:
        self.term(trainer, True)

    def term(self, trainer: L.Trainer, validating: bool) -> None:
        if validating == self.validating and trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)


def sick(first: int, last: int) -> tuple[str, ...]:
    name = f"{__name__}.Sick"
    return (f"--trainer.callbacks+={name}", f"--trainer.callbacks.first={first}", f"--trainer.callbacks.last={last}")


# ---- one seed


def test_runs_when_only_seed_everything_differs():
    """Rollouts, order and first weights of GRPO follow it, and a seed that is given alone pins its part."""
    for version, seed in (("one", "1"), ("two", "2")):
        fit("grpo", version, "--seed_everything", seed, "--trainer.max_steps=4")
    fit("grpo", "again", "--seed_everything", "1", "--trainer.max_steps=4")
    fit("grpo", "given", "--seed_everything", "1", "--model.seed=1", "--model.rollout_seed=1", "--trainer.max_steps=4")
    one, two, again, given = (weights("grpo", version) for version in ("one", "two", "again", "given"))
    assert any(not torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(one[name], again[name]) and torch.equal(one[name], given[name]) for name in one)
    # what is kept with the run still follows the seed
    assert "rollout_seed: null" in Path("runs/grpo/one/config.yaml").read_text()


def test_order_when_only_seed_everything_differs():
    from jsonargparse import Namespace

    from lightning_paras2s.running.defaults import follow_seed

    data = Namespace(class_path="D", init_args=Namespace(seed=None))
    model = Namespace(class_path="M", init_args=Namespace(seed=5, rollout_seed=None))
    config = Namespace(seed_everything=3, model=model, data=data)
    follow_seed(config)
    assert (data.init_args.seed, model.init_args.seed, model.init_args.rollout_seed) == (3, 5, 3)


def test_seeds_in_force_are_told_when_seed_everything_does_not_move_them(capsys):
    """`fit --config reward.yaml --seed_everything 2` drew weights and order from seed 0, and said nothing."""
    fit("grpo", "one", "--seed_everything", "1", "--model.rollout_seed=1", "--trainer.max_steps=1")
    assert "seeds in force" not in capsys.readouterr().err
    given = ("--model.rollout_seed=1", "--model.seed=0")
    fit("grpo", "two", "--seed_everything", "2", *given, "--trainer.max_steps=1")
    said = (
        "seeds in force: seed_everything 2, but model.seed 0, model.rollout_seed 1, which seed_everything does not move"
    )
    assert capsys.readouterr().err.count(said) == 1


# ---- gradients and weights that are not finite


@pytest.mark.parametrize("stage", STAGES)
def test_weights_when_one_gradient_is_not_finite(stage: str):
    """The step is left out, counted, and the run goes on with finite weights."""
    fit(stage, "a", *sick(3, 3))
    assert all(bool(tensor.isfinite().all()) for tensor in weights(stage, "a").values())
    lines = [json.loads(line) for line in Path(f"runs/{stage}/a/metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "train/skipped" in line]
    counts = [line["train/skipped"] for line in lines]
    steps = 4 if stage == "grpo" else 1  # of a batch
    assert counts == [0.0] * 3 + [steps] * 7
    assert lines[3]["train/grad_norm"] is None and lines[4]["train/grad_norm"] > 0


def test_weights_do_not_move_in_a_step_that_is_left_out():
    """Nor do the moments: the next step is what it would have been."""
    fit("sft", "a", *sick(0, 8), "--model.weight_decay=0.1")
    torch.manual_seed(0)
    first = ToyLM(dropout=0.1).state_dict()
    last = torch.load("runs/sft/a/checkpoints/step-00000009.ckpt", weights_only=False)["state_dict"]
    assert all(torch.equal(first[name], last[f"policy.{name}"]) for name in first)


@pytest.mark.parametrize("stage", STAGES)
def test_run_ends_when_too_many_gradients_in_a_row_are_not_finite(stage: str):
    with pytest.raises(UserError, match="must be finite; got nan in 4 steps in a row"):
        run(stage, "--trainer.logger.version=a", "--model.max_skipped=4", *sick(5, 99))
    path = checkpoints(Path(f"runs/{stage}/a"))[-1]
    kept = torch.load(path, weights_only=False)["state_dict"]
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())


def test_healthy_checkpoints_and_weights_stay_when_weights_are_not_finite():
    fit("sft", "a")
    kept = [path for path in Path("runs/sft/a").rglob("*") if path.suffix in (".ckpt", ".safetensors")]
    before = {path: path.read_bytes() for path in kept}
    name = f"{__name__}.Explode"
    with pytest.raises(UserError, match="must be finite to be saved; got policy.embed.0.weight after 12 batches"):
        run("sft", "--trainer.logger.version=a", "--trainer.max_steps=20", f"--trainer.callbacks+={name}",
            "--trainer.callbacks.batch=11")  # fmt: skip
    assert {path: path.read_bytes() for path in before} == before and len(before) == 3


# ---- resuming


def test_line_of_events_when_a_run_was_killed():
    """TensorBoard shows each step once."""
    with pytest.raises(Killed):
        fit("sft", "a", *end(7, False))
    fit("sft", "a")
    events = EventAccumulator("runs/sft/a", {"scalars": 0}).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(10))
    assert [step for step, _ in logged("sft", "a")] == list(range(10))


def test_branch_when_a_run_went_on_from_an_older_checkpoint_and_was_killed():
    """Of checkpoints 3, 6, 9, 10 it goes on from 3 with another rate, is killed in batch 4, and is started again."""
    fit("sft", "a", "--checkpoint.keep=-1")
    third, options = "runs/sft/a/checkpoints/step-00000003.ckpt", ("--checkpoint.keep=-1", "--model.lr=0.02")
    with pytest.raises(Killed):
        fit("sft", "a", "--ckpt_path", third, *options, *end(4, False))
    assert [path.name for path in checkpoints(Path("runs/sft/a"))] == ["step-00000003.ckpt"]
    assert len(list(Path("runs/sft/a/checkpoints").glob("abandoned-step-*.ckpt"))) == 3
    fit("sft", "a", *options)
    fit("sft", "b", "--ckpt_path", third, *options)
    one, other = weights("sft", "a"), weights("sft", "b")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_queries_when_resumed_with_another_batch_size():
    """Of 16, three batches of 2 are 6: ten are left, in two batches of 4 and a remainder; and the other way round."""
    first = ResumableLoader(range(16), list, 2, seed=1)
    start = iter(first)
    taken = [query for _ in range(3) for query in next(start)]
    second = ResumableLoader(range(16), list, 4, seed=1)
    second.load_state_dict(first.state_dict())
    rest = [query for batch in second for query in batch]
    whole = first.order(0, 2).tolist()
    assert taken == whole[:6] and rest == whole[6:14]
    assert len(second) == 4  # where a run goes on, Lightning counts the two that are left as the last of four
    assert next(iter(second)) == second.order(1, 4).tolist()[:4]


def test_checkpoint_leaves_out_what_does_not_train():
    """As a LoRA's base; a resumed run has it from its file."""

    class Frozen(ToyLM):
        def __init__(self) -> None:
            super().__init__()
            self.embed.requires_grad_(False)

    module = GRPOModule(Frozen, lambda: TokenCountReward(2), sampling=Sampling(max_steps=4))
    trainer = quiet_trainer(1, Path("."))
    trainer.fit(module, ToyData(labelled=False))
    trainer.save_checkpoint("a.ckpt", weights_only=False)
    kept = torch.load("a.ckpt", weights_only=False)["state_dict"]
    assert kept and not any("embed" in name for name in kept)
    again = GRPOModule(Frozen, lambda: TokenCountReward(2), sampling=Sampling(max_steps=4))
    quiet_trainer(2, Path(".")).fit(again, ToyData(labelled=False), ckpt_path="a.ckpt", weights_only=False)


def test_weights_are_written_when_a_run_ended_after_its_last_batch():
    """SIGTERM in the last batch leaves nothing to train, but to write."""
    with pytest.raises(SystemExit) as stop:
        fit("sft", "a", *end(9, True))
    assert stop.value.code == 143 and not Path("runs/sft/a/policy.safetensors").exists()
    fit("sft", "a")
    assert weights("sft", "a")


@pytest.mark.parametrize("stage", STAGES)
def test_run_saves_and_exits_143_when_terminated(stage: str):
    with pytest.raises(SystemExit) as stop:
        fit(stage, "a", *end(4, True))
    assert stop.value.code == 143
    assert [path.name for path in checkpoints(Path(f"runs/{stage}/a"))] == ["step-00000003.ckpt", "step-00000005.ckpt"]


def test_checkpoint_waits_for_its_step_when_gradients_are_accumulated():
    """Due after batches 3, 6 and 9; steps are made after every second one."""
    fit("sft", "a", "--trainer.accumulate_grad_batches=2", "--trainer.max_steps=5", "--checkpoint.keep=-1")
    assert [saving.number_of(path) for path in checkpoints(Path("runs/sft/a"))] == [4, 6, 10]


# SIGTERM in a batch (of four an epoch), or in the validation behind it -> the batches of the one checkpoint
MOMENTS = {
    "an epoch's last batch": ("sft", [], 3, False, 4),
    "an epoch's last batch in RL": ("grpo", [], 7, False, 8),
    "an epoch's last batch, without validation": ("sft", ["--trainer.limit_val_batches=0"], 7, False, 8),
    "an epoch's last batch, by epochs": ("reward", ["--trainer.max_steps=-1", "--trainer.max_epochs=3"], 3, False, 4),
    "an epoch's validation": ("reward", [], 3, True, 4),
    "a validation within an epoch": ("sft", ["--trainer.val_check_interval=2"], 5, True, 6),
    "half an optimizer step": ("sft", ["--trainer.accumulate_grad_batches=3"], 4, False, 4),
    "half an optimizer step, by epochs": (
        "reward",
        ["--trainer.accumulate_grad_batches=2", "--trainer.max_steps=-1", "--trainer.max_epochs=3"],
        6,
        False,
        6,
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_run_goes_on_from_where_it_was_terminated(moment: str):
    """Nothing but SIGTERM saves, so that the run goes on from there, bit for bit."""
    stage, options, batch, validating, saved = MOMENTS[moment]
    options = ["--checkpoint.every_n_batches=0", *options]
    fit(stage, "whole", *options)
    term = [f"--trainer.callbacks.batch={batch}", f"--trainer.callbacks.validating={validating}"]
    with pytest.raises(SystemExit) as stop:
        fit(stage, "cut", *options, f"--trainer.callbacks+={__name__}.Term", *term)
    assert stop.value.code == 143
    assert [saving.number_of(path) for path in checkpoints(Path(f"runs/{stage}/cut"))] == [saved]
    fit(stage, "cut", *options)
    one, other = weights(stage, "whole"), weights(stage, "cut")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert logged(stage, "cut") == logged(stage, "whole")


def test_run_goes_on_when_the_validation_that_was_terminated_had_drawn():
    """A validation that samples moves the generators, which a saved run must not keep."""
    stage, options, batch, _, _ = MOMENTS["an epoch's validation"]
    options = ["--checkpoint.every_n_batches=0", *options, f"--trainer.callbacks+={__name__}.Drawing"]
    fit(stage, "whole", *options)
    term = [f"--trainer.callbacks.batch={batch}", "--trainer.callbacks.validating=true"]
    with pytest.raises(SystemExit):
        fit(stage, "cut", *options, f"--trainer.callbacks+={__name__}.Term", *term)
    DRAWN.clear()
    fit(stage, "cut", *options)
    after = DRAWN.copy()
    DRAWN.clear()
    fit(stage, "again", *options)
    assert after == DRAWN[-len(after) :]


def test_lines_of_metrics_when_a_run_with_accumulation_goes_on_from_an_older_checkpoint():
    """Lightning logs under optimizer steps there, of which three batches make one."""
    options = ("--checkpoint.keep=-1", "--checkpoint.every_n_batches=3", "--trainer.accumulate_grad_batches=3")
    fit("sft", "a", *options)
    whole = logged("sft", "a")
    older = min(checkpoints(Path("runs/sft/a")), key=saving.number_of)
    fit("sft", "a", "--ckpt_path", str(older), *options)
    assert logged("sft", "a") == whole


# ---- folders


@pytest.mark.parametrize(("keep", "left"), [(-1, [3, 6, 9, 10]), (1, [10])])
def test_checkpoints_that_stay(keep: int, left: list[int]):
    fit("sft", "a", f"--checkpoint.keep={keep}")
    assert [saving.number_of(path) for path in checkpoints(Path("runs/sft/a"))] == left


@pytest.mark.parametrize("logger", ["false", "CSVLogger", "[CSVLogger, RunLogger]"])
def test_run_has_its_folder_whatever_loggers_there_are(logger: str):
    """And a second one does not write over the first."""
    options = ["--trainer.logger", logger]
    if "CSV" in logger:
        csv = {"class_path": "CSVLogger", "init_args": {"save_dir": "csv"}}
        own = {"class_path": "RunLogger", "init_args": {"name": "sft"}}
        options[1] = json.dumps([csv, own] if "Run" in logger else csv)
    for _ in range(2):
        run("sft", *options, "--trainer.max_steps=2")
    for version in ("version_0", "version_1"):
        folder = Path("runs/sft", version)
        names = {path.name for path in folder.iterdir()}
        assert {"policy.safetensors", "checkpoints", "config.yaml", "metrics.jsonl"} <= names
    assert Path("csv").exists() == ("CSV" in logger)


def test_nothing_half_written_when_the_disk_is_full(monkeypatch):
    fit("sft", "a", "--trainer.max_steps=3")
    before = sorted(path for path in Path("runs").rglob("*") if "tfevents" not in path.name)

    def full(trainer: L.Trainer, path: Path, **options) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(L.Trainer, "save_checkpoint", full)
    with pytest.raises(UserError, match="must be able to write its files; got: .*No space left"):
        run("sft", "--trainer.logger.version=a")
    assert sorted(path for path in Path("runs").rglob("*") if "tfevents" not in path.name) == before


def test_folder_that_takes_no_files():
    """Below a file there is none, whoever asks."""
    Path("file").touch()
    with pytest.raises(UserError, match="must be able to write its files"):
        run("sft", "--trainer.logger.save_dir=file/runs")


def test_folder_that_is_read_only():
    """root may write into any folder but the kernel's own, so that it tries one of those."""
    Path("locked").mkdir(mode=0o555)
    place = "locked/runs" if os.geteuid() else "/sys/runs"
    if os.geteuid() == 0 and not Path("/sys").is_dir():
        pytest.skip("as root, on a system without /sys")
    with pytest.raises(UserError, match="must be able to write its files.*(Permission|permitted|[Rr]ead-only)"):
        run("sft", f"--trainer.logger.save_dir={place}")
    assert not any(Path("locked").iterdir())


@pytest.mark.parametrize(("logger", "package"), [("WandbLogger", "wandb"), ("CometLogger", "comet_ml")])
def test_logger_whose_package_is_missing(logger: str, package: str):
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    line = refused("sft", "--trainer.logger", logger)
    assert line == f"{logger} needs the package {package}, which is missing; install it, or leave the logger out"


def test_nothing_is_said_of_weights_only(caplog):
    with caplog.at_level(logging.INFO):
        fit("sft", "a", "--trainer.max_steps=3")
    assert not [record for record in caplog.records if "weights_only" in record.message]


# ---- what is said at the end


SAID = {
    "sft": ("SFTModule", "optimizer steps 10", "train/loss"),
    "reward": ("RewardModule", "optimizer steps 10", "val/pearson"),
    "grpo": ("GRPOModule", "optimizer steps 40", "train/reward"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_run_ends_with_a_summary_on_80_columns(stage: str, capsys):
    """GRPO: ten rollouts, each in two passes of two minibatches."""
    fit(stage, "a", *sick(3, 3))
    out = capsys.readouterr().out
    name, steps, metric = SAID[stage]
    words = " ".join(out.split())
    assert name in words and steps in words and "batches 10" in words and metric in words
    assert f"steps left out {4 if stage == 'grpo' else 1}" in words
    assert Path(words.partition("weights: ")[2].split()[0]).is_file()
    assert max(map(len, out.splitlines())) <= 80
    assert "Nothing was trained" not in out


def test_run_that_had_ended_says_that_it_trained_nothing(capsys):
    """Its exit code is 0: it is what was asked for, and its weights are there (ms-swift #8383, #6084)."""
    fit("sft", "a", "--trainer.max_steps=2")
    capsys.readouterr()
    fit("sft", "a", "--trainer.max_steps=2")
    assert "Nothing was trained: it had ended before." in capsys.readouterr().out


def test_next_command_of_each_stage():
    """They are taken by the parser of their command, as far as that goes without weights."""
    from lightning_paras2s.shown.training import fit as shown

    def again(stage: str, model: str, weights: str) -> str:
        result = {"stage": stage, "model": model, "weights": weights, "folder": "runs/x", "metrics": {}}
        return shown(result | {"steps": 1, "batches": 1, "skipped": 0, "trained": True}, {}).next

    assert again("SFTModule", "TinySpeechLM", "p") == "fit --config grpo.yaml --model.init_from p"
    assert again("SFTModule", "KimiAudio", "p") == "fit --config paper/grpo.yaml --model.policy.init_args.path p"
    scorer = "--model.reward.init_args.scorer.init_args.path p"
    assert again("RewardModule", "TinyScorer", "p") == f"fit --config grpo_scorer.yaml {scorer}"
    assert again("RewardModule", "QwenOmniScorer", "p") == f"fit --config paper/grpo.yaml {scorer}"
    assert again("GRPOModule", "KimiAudio", "p") == "evaluate --config paper/evaluate.yaml"
    assert again("GRPOModule", "ToyLM", "p") == ""
    line = again("GRPOModule", "TinySpeechLM", "runs/a b/policy.safetensors")
    command, _, config, option, systems = shlex.split(line)
    assert (command, config, option) == ("evaluate", "evaluate.yaml", "--systems")
    (system,) = yaml.safe_load(systems).values()
    assert system["init_args"] == {"policy": "runs/a b/policy.safetensors", "processor": "TinyProcessor"}
