"""Configs became overlays: what each command's options come to is as before (`golden/configs/before.json`, written by
`--print_config` of the code before), but for the names of files that moved."""

from __future__ import annotations

import json
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
CHANGED = {"text_vocab_size": (3552, None)}  # read from the vocabulary, see below


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
    wanted = before(name)
    for key, (old, now) in CHANGED.items():
        wanted |= {k: now for k, v in wanted.items() if k.split(".")[-1] == key and v == old}
    assert {k: found.get(k, "lacking") for k in wanted} == wanted
    asked = {k for c in configs for k, _ in flat(yaml.safe_load((ROOT / "configs" / c).read_text()))}
    assert not (found.keys() - wanted.keys()) & asked, "a config asks for what it did not ask for before"


def test_vocabulary_has_the_size_that_configs_named_before():
    assert len(TextVocab()) == CHANGED["text_vocab_size"][0]
