"""Configs became overlays: what each command's options come to is as before (`golden/configs/before.json`, written by
`--print_config` of the code before), but for the names of files that moved."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_paras2s.cli import dispatch
from lightning_paras2s.models.tiny.vocabulary import TextVocab

ROOT = Path(__file__).parents[1]
BEFORE = json.loads((Path(__file__).parent / "golden/configs/before.json").read_text())
# Old config -> the configs that one gives now, in this order.
NOW = {
    "grpo_count.yaml": ("grpo.yaml", "ladder/count.yaml"),
    "grpo_text.yaml": ("grpo.yaml", "ladder/text.yaml"),
    "grpo_tone.yaml": ("grpo.yaml", "ladder/tone.yaml"),
    "grpo_judge.yaml": ("grpo.yaml", "ladder/judge.yaml"),
    "sft_shuffled.yaml": ("sft.yaml", "controls/sft_shuffled.yaml"),
    "polytone_control.yaml": ("polytone.yaml", "controls/polytone_control.yaml"),
    "trainer/watched.yaml": ("sft.yaml", "trainer/watched.yaml"),
    "trainer/fsdp2_8gpu.yaml": ("sft.yaml", "trainer/fsdp2_8gpu.yaml"),
}
COMMANDS = {"bench": "bench", "mine": "mine", "synthesize": "synthesize", "filter": "filter", "evaluate": "evaluate"}
COMMANDS |= {"demo": "evaluate", "preferences": "predict"}
# Options whose value changed on purpose: last part of the name -> before, now.
SINCE = re.compile(  # options that configs ask for since: ears from outside, the processor's names, nouns
    r"audit|trainer\.callbacks\.1\.init_args\.outside|(data|systems\.\w+)\.init_args\.processor\."
    r"|data\.init_args\.(source\.class_path|source\.init_args\.subjects|labelled)$"
)
CHANGED = {"text_vocab_size": (3552, None), "precision": ("bf16-mixed", "auto"), "micro_batch_tokens": (0, 3500)}
EARS = re.compile(r"(transcriber|recognizer|style)\.init_args\.batch_size$")  # 8 recordings at once, not 32
KEPT = {"paper/polytone.yaml": "precision"}  # changed at embedded scale alone


# What lay beside the policy is its processor's, which the data module and `PolicySystem` hold (models/processor.py).
PROCESSOR = re.compile(
    r"(data\.init_args|systems\.\w+\.init_args)\.(tokenizer|transcriber|delay|text|path|glm4_path)\b"
)
GONE = re.compile(r"model\.init_args\.(tokenizer|vocabulary)\b|data\.init_args\.(train|val|answers|max_steps)$")
CLASSES = {"KimiDataModule": "DualStreamDataModule", "KimiSystem": "PolicySystem"}


def with_processor(wanted: dict[str, Any]) -> dict[str, Any]:
    """Options of before where they are now: weights and delay under `processor`, manifests under `source`."""
    made = {}
    for key, value in wanted.items():
        owner = key.rpartition(".init_args.")[0]
        kind = wanted.get(f"{owner}.class_path")
        policy = kind in ("DualStreamDataModule", "KimiDataModule", "PolicySystem", "KimiSystem")
        if key.startswith("systems.") and kind == "KimiSystem" and key.endswith(".policy"):
            made[key] = value or wanted[f"{owner}.init_args.path"]  # the released policy is named, too
        elif GONE.match(key) and (owner != "data" or kind == "KimiDataModule"):
            if (name := key.rpartition(".")[2]) in ("train", "val", "answers"):
                made[f"data.init_args.source.init_args.{ {'train': 'manifest'}.get(name, name) }"] = value
        elif policy and (found := PROCESSOR.match(key)):
            if kind in ("DualStreamDataModule", "PolicySystem"):
                made[f"{found[1]}.processor.init_args.{found[2]}"] = value
        elif not PROCESSOR.match(key) or not re.search(r"(tokenizer|text)\.(init_args|class_path)", key):
            made[key] = CLASSES.get(value, value) if isinstance(value, str) else value
    return made


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values; of a class's path its name."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from flat(item, f"{key}.{index}")
    else:
        package = isinstance(value, str) and value.startswith(("lightning_paras2s.", "lightning."))
        yield key, value.rsplit(".", 1)[-1] if package else value


def before(name: str) -> dict[str, Any]:
    row = BEFORE["configs"][name]
    shared = {k: v for k, v in BEFORE["common"].items() if k.split(".")[0] in row["common"] and k not in row["lacks"]}
    return shared | row["differs"]


@pytest.mark.parametrize("name", BEFORE["configs"])
def test_options_are_as_before_when_a_config_is_an_overlay(name, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    configs = NOW.get(name, (name,))
    command = COMMANDS.get(Path(name).stem.split("_")[0], "fit")
    with pytest.raises(SystemExit):
        dispatch([command, *(part for config in configs for part in ("--config", config)), "--print_config"])
    found = dict(flat(yaml.safe_load(capsys.readouterr().out)))
    wanted = with_processor(before(name))
    for key, (old, now) in CHANGED.items():
        if KEPT.get(name) == key:
            continue
        wanted |= {k: now for k, v in wanted.items() if k.split(".")[-1] == key and v == old}
    wanted |= {k: 8 for k, v in wanted.items() if EARS.search(k) and v == 32}
    assert {k: found.get(k, "lacking") for k in wanted} == wanted
    asked = {k for c in configs for k, _ in flat(yaml.safe_load((ROOT / "configs" / c).read_text()))}
    new = (found.keys() - wanted.keys()) & asked
    assert not {key for key in new if not SINCE.match(key)}, "a config asks for what it did not ask for before"


def test_vocabulary_has_the_size_that_configs_named_before():
    assert len(TextVocab()) == CHANGED["text_vocab_size"][0]
