"""A policy family is a `SpeechLM` and its `Processor`: a further one needs no change in stages and benchmark, since no
line of theirs names any.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "lightning_paras2s"
SEAMS = {"SpeechLM", "HeadedLM", "Processor", "RawProcessor", "SpeechTokenizer"}
# Why a file may name a family all the same.
EXEMPT = {
    "modules/speech.py": "it trains the embedded family's own codec",
    "modules/analyzers.py": "it trains the embedded analysers on that family's acoustics",
    "modules/labelled.py": "it speaks and hears what the embedded analysers learn from",
    "bench/diagnostics/judge_table.py": "it compares the embedded judges, of which one is that family's scorer",
}


def families() -> list[Path]:
    return sorted(file.parent for file in (PACKAGE / "models").glob("*/processor.py"))


def names(folder: Path) -> set[str]:
    """Classes that fill a seam, whatever lies between."""
    bases = {}
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {base.id for base in node.bases if isinstance(base, ast.Name)}
    found: set[str] = set()
    while more := {name for name, of in bases.items() if of & (SEAMS | found)} - found:
        found |= more
    return found


def test_every_family_fills_the_seam():
    found = {folder.name: names(folder) for folder in families()}
    assert found.keys() >= {"tiny", "kimi", "qwen_omni"}
    assert {"QwenOmni", "QwenOmniProcessor", "OmniVoice"} <= found["qwen_omni"]
    assert all(any(name.endswith("Processor") for name in classes) for classes in found.values())


def test_no_line_of_stages_or_benchmark_names_a_family():
    words = {name for folder in families() for name in names(folder)}
    words |= {f"models.{folder.name}" for folder in families()} | {"Kimi-Audio", "Qwen2.5-Omni"}
    pattern = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in sorted(words)))
    named = {}
    for part in ("modules", "bench"):
        for file in sorted((PACKAGE / part).rglob("*.py")):
            lines = [n for n, line in enumerate(file.read_text().splitlines(), 1) if pattern.search(line)]
            if lines:
                named[file.relative_to(PACKAGE).as_posix()] = lines
    assert named.keys() == EXEMPT.keys(), named
