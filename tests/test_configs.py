"""Every config parses through the command line; those of the embedded stages fit two steps on less data."""

from __future__ import annotations

import functools
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml

from lightning_paras2s.audio import write_audio
from lightning_paras2s.cli import COMMANDS, STAGES, dispatch
from lightning_paras2s.data import embedded, speech, spoken
from lightning_paras2s.data import sources as dialogues
from lightning_paras2s.data.preferences import Preference
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.tiny.scorer import TinyScorer
from lightning_paras2s.types import FACTORS, SPLITS, Audio, append_jsonl

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
NAMES = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.yaml"))
COMMAND_OF = {"demo": "evaluate", "preferences": "predict", "anchor_answers": "predict", "model_7b": "predict"}
# Configs that are differences: what they lie on.
BASE_OF = {"ladder": "grpo.yaml", "trainer": "sft.yaml"}
BASE_OF |= {f"onegpu/card_{size}.yaml": "onegpu/grpo.yaml" for size in (24, 48, 80)}
BASE_OF |= {"paper/evaluate_one_card.yaml": "paper/evaluate.yaml"}
BASE_OF |= {"controls/sft_shuffled.yaml": "sft.yaml", "controls/sft_fitting.yaml": "sft.yaml"}
BASE_OF |= {"controls/polytone_control.yaml": "polytone.yaml"}
BASE_OF |= {f"onegpu/{name}.yaml": "onegpu/preferences.yaml" for name in ("model_7b", "preferences_24")}
BASE_OF |= {"onegpu/evaluate_7b.yaml": "onegpu/evaluate.yaml"}
BASE_OF |= {"controls/anchor_answers.yaml": "preferences.yaml", "controls/anchor_audio.yaml": "grpo.yaml"}
BASE_OF["controls/rejection.yaml"] = "sft_fifth.yaml"
BASE_OF["controls/unscaled.yaml"] = "grpo.yaml"
# What makes a stage small, by the classes that its config names. Dialogues are cut by the fixture `few_lines`.
POLICY = [f"--model.policy.init_args.{option}" for option in ("width=32", "heads=2", "shared_layers=1")]
SPEECH = ["--data.queries=8", "--data.responses=8", "--data.batch_size=4"]
TINY = {
    "TokenizerModule": ["--model.width=16", "--model.export=made.safetensors"],
    "TranscriberModule": ["--model.width=16", "--model.blocks=1", "--model.export=made.safetensors"],
    "StyleModule": ["--model.width=16", "--model.blocks=1", "--model.export=made.safetensors"],
    "SFTModule": [*POLICY, "--model.init_from=null"],
    "RewardModule": [],
    "SampleModule": ["--model.samples=2", "--model.sampling.max_steps=8"],
    "GRPOModule": [*POLICY, "--model.init_from=null", "--model.group_size=2", "--model.sampling.max_steps=8"],
    "PolyToneModule": ["--model.export=made"],
    "SpeechDataModule": SPEECH,
    "PolyToneDataModule": ["--data.emotions=1", "--data.others=2", "--data.renditions=2", "--data.batch_size=4"],
    "PreferenceDataModule": ["--data.train=judged/a.jsonl", "--data.val=judged/b.jsonl", "--data.batch_size=2"],
    "DualStreamDataModule": ["--data.batch_size=2", "--data.val_batch_size=8"],
    "PretrainingDialogues": [f"--data.source.init_args.{task}=50" for task in ("read", "echo", "name", "chat")],
    "Demonstrations": ["--data.source.init_args.renditions=1"],
}
STAGE_FOLDERS = ("ladder", "controls")


def parts_of(name: str) -> list[str]:
    """The configs to give for one: itself, or what it lies on and itself."""
    base = BASE_OF.get(name) or BASE_OF.get(name.split("/")[0])
    return [name] if base is None else [base, name]


def merged(first: dict, then: dict) -> dict:
    """One config over another; an option's class that changes takes none of the other's options along."""
    found = dict(first)
    for key, value in then.items():
        kept = isinstance(value, dict) and isinstance(found.get(key), dict) and "class_path" not in value
        found[key] = merged(found[key], value) if kept else value
    return found


def read(name: str) -> dict:
    return functools.reduce(merged, (yaml.safe_load((CONFIGS / part).read_text()) for part in parts_of(name)))


def given(name: str) -> list[str]:
    return [argument for part in parts_of(name) for argument in ("--config", part)]


EMBEDDED = [n for n in NAMES if ("/" not in n or n.split("/")[0] in STAGE_FOLDERS) and "model" in read(n)]
for name in ("controls/anchor_audio.yaml", "controls/rejection.yaml"):
    EMBEDDED.remove(name)  # they need judged answers: test_rejection.py


def command_of(name: str) -> str:
    """The command that a config is for: a stage's config has a model; others are named after their command."""
    stem = Path(name).stem
    first = stem.split("_")[0]
    if name.startswith("sweeps/") and stem != "evaluate":
        return "sweep"
    if stem in COMMAND_OF or first in COMMAND_OF:
        return COMMAND_OF.get(stem) or COMMAND_OF[first]
    return first if first in COMMANDS else "fit"


@pytest.mark.parametrize("name", NAMES)
def test_config_parses(name, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    command = command_of(name)
    arguments = [command, *given(name), "--print_config"]
    with pytest.raises(SystemExit) as stop:
        dispatch(arguments)
    assert not stop.value.code
    printed = yaml.safe_load(capsys.readouterr().out)
    asked = read(name)
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
    parts = folder / "checkpoints/embedded"
    parts.mkdir(parents=True)
    for path in (ROOT / "checkpoints/embedded").iterdir():
        (parts / path.name).symlink_to(path)
    if not (parts / "scorer.safetensors").exists():  # two steps do not need a trained one
        TinyScorer(str(parts / "transcriber.safetensors"), str(parts / "style.safetensors")).save(
            parts / "scorer.safetensors"
        )
    for name, ids in (("a", "pqrs"), ("b", "tu")):
        write_judged(folder / "judged", name, ids)
    return folder


def write_judged(folder: Path, name: str, ids: str) -> None:
    """Judged samples of hums, for the reward model."""
    hum = Audio((0.1 * np.sin(np.arange(8000) / 20)).astype(np.float32), 16_000)
    write_audio(folder / "hum.wav", hum)
    rows = [Preference(i, 0, "hum.wav", "hum.wav", 1.0 + n % 5, "oh") for n, i in enumerate(ids)]
    append_jsonl(folder / f"{name}.jsonl", rows)


@pytest.fixture
def few_lines(monkeypatch) -> None:
    """Few lines, spoken in this process: two query texts a factor and split, eight lines of other speech."""
    few = {}
    for split in SPLITS:
        queries = dialogues.text_queries(split)
        few[split] = tuple(q for f in FACTORS for q in [q for q in queries if q.factor == f][:2])
    monkeypatch.setattr(dialogues, "text_queries", few.__getitem__)
    for module in (speech, dialogues):
        for name in ("query_lines", "agent_lines"):
            monkeypatch.setattr(module, name, functools.partial(first_lines, getattr(embedded, name)))
    monkeypatch.setattr(spoken, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))


def first_lines(make, size: int, *rest, **options):
    return make(min(size, 8), *rest, **options)


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_stage_takes_two_steps(name, workplace, few_lines, monkeypatch):
    monkeypatch.chdir(workplace)
    config = read(name)
    source = config["data"]["init_args"].get("source", "")
    used = (
        config["model"]["class_path"],
        config["data"]["class_path"],
        source if isinstance(source, str) else source["class_path"],
    )
    stage = config["trainer"]["logger"]["init_args"]["name"]
    options = [option for part in used for option in TINY.get(part, [])]
    options += ["--progress.refresh_rate=0", "--trainer.logger.version=two"]
    if command_of(name) == "predict":
        dispatch(["predict", *given(name), *options])
        # of 8 texts all but the fifth's, or the half that no demonstrations have; all; each in two styles
        trained = 8 if name == "controls/anchor_answers.yaml" else 14
        for split, count in (("train", trained), ("val", 16)):
            assert len((workplace / f"runs/{stage}/data/{split}-0/done.txt").read_text().splitlines()) == count
        return
    options += ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.log_every_n_steps=1"]
    options += ["--trainer.val_check_interval=2", "--trainer.check_val_every_n_epoch=null"]
    dispatch(["fit", *given(name), *options])
    run = workplace / "runs" / stage / "two"
    assert (run / "config.yaml").is_file() and (run / "checkpoints/step-00000002.ckpt").is_file()
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in logged if any(key.startswith("train/") for key in line)]
    assert [line["step"] for line in trained] == [0, 1] and any("val/" in key for line in logged for key in line)
    assert all(math.isfinite(v) for line in trained for v in line.values())
    made = [*workplace.glob("made*.safetensors"), *run.glob("*.safetensors")]
    assert made and all(path.stat().st_size > 1000 for path in made)
    for path in made:
        path.unlink()  # the next stage's must be its own
