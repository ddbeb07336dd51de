"""Every config parses through the command line; those of the embedded stages fit two steps on less data."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_paras2s.cli import COMMANDS, STAGES, dispatch
from lightning_paras2s.types import UserError

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
NAMES = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.yaml"))
COMMAND_OF = {"demo": "evaluate", "preferences": "predict"}
POLICY = [
    "--model.policy.init_args.width=32",
    "--model.policy.init_args.heads=2",
    "--model.policy.init_args.shared_layers=1",
]
PAIRS = ["--data.source.init_args.share=0.005", "--data.source.init_args.renditions=1"]
# The smallest variant of each; the validation sets are the configs' own.
TINY = {
    "tokenizer": ["--data.queries=8", "--data.responses=8", "--data.batch_size=4", "--model.width=16"],
    "transcriber": [
        "--data.queries=8",
        "--data.responses=8",
        "--data.batch_size=4",
        "--model.width=16",
        "--model.blocks=1",
    ],
    "transcriber_decoded": ["--data.queries=8", "--data.responses=8", "--data.batch_size=4"],
    "style": ["--data.queries=8", "--data.responses=8", "--data.batch_size=4", "--model.width=16", "--model.blocks=1"],
    "base": [
        *[f"--data.source.init_args.{task}=50" for task in ("read", "echo", "name", "chat")],
        "--data.batch_size=4",
        *POLICY,
    ],
    "sft": [*PAIRS, "--model.init_from=null", "--data.batch_size=4", *POLICY],
    "sft_fifth": [*PAIRS, "--model.init_from=null", "--data.batch_size=4", *POLICY],
    "sft_shuffled": [*PAIRS, "--model.init_from=null", "--data.batch_size=4", *POLICY],
}


def command_of(name: str) -> str:
    """The command that a config is for: a stage's config has a model; others are named after their command."""
    stem = Path(name).stem
    first = stem.split("_")[0]
    if stem in COMMAND_OF or first in COMMAND_OF:
        return COMMAND_OF.get(stem) or COMMAND_OF[first]
    return first if first in COMMANDS else "fit"


@pytest.mark.parametrize("name", NAMES)
def test_config_parses(name, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    command = command_of(name)
    # A trainer's config is a part: it goes on top of a whole one.
    base = ["--config", "sft.yaml"] if name.startswith("trainer/") else []
    arguments = [command, *base, "--config", name, "--print_config"]
    with pytest.raises(SystemExit) as stop:
        dispatch(arguments)
    assert not stop.value.code
    printed = yaml.safe_load(capsys.readouterr().out)
    asked = yaml.safe_load((CONFIGS / name).read_text())
    assert set(asked) <= set(printed)
    if command in STAGES and "model" in asked:
        assert printed["model"]["class_path"].endswith(asked["model"]["class_path"].split(".")[-1])


def test_config_is_refused_when_it_has_an_unknown_option(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "bad.yaml").write_text((CONFIGS / "sft.yaml").read_text().replace("warmup_steps", "warm_up_steps"))
    with pytest.raises(UserError, match="warm_up_steps"):
        dispatch(["fit", "--config", str(tmp_path / "bad.yaml"), "--print_config"])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder that looks like the checkout, so that nothing is written there; the stages share cached speech."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "checkpoints").symlink_to(ROOT / "checkpoints")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", TINY)
def test_embedded_stage_fits_two_steps(stage, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    export = "exported.safetensors" if stage in ("tokenizer", "transcriber", "transcriber_decoded", "style") else None
    options = [
        *TINY[stage],
        "--trainer.max_steps=2",
        "--trainer.limit_val_batches=1",
        "--progress.refresh_rate=0",
        "--trainer.logger.version=two",
    ]
    options += [f"--model.export={export}"] if export else []
    dispatch(["fit", "--config", f"{stage}.yaml", *options])
    run = workplace / "runs" / stage / "two"
    assert (run / "config.yaml").is_file() and list((run / "checkpoints").glob("step-00000002.ckpt"))
    made = workplace / export if export else run / "policy.safetensors"
    assert made.stat().st_size > 1000
    made.rename(run / "weights.safetensors")  # the next stage's must be its own
