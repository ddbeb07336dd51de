"""docs/findings.py on rows that are made up: what failed says why, and what was not trained claims no seeds."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def findings(tmp_path, monkeypatch) -> ModuleType:
    """The script, with an empty folder of results."""
    spec = importlib.util.spec_from_file_location("findings", ROOT / "docs/findings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def row(point: dict, seed: int, scores: dict[str, float], steps: int = 0) -> dict:
    """160 pairs of training texts of many topics; half of them 0.5 above the score, half below."""
    names = [f"{f}/{f}-train-{i:04d}" for f in ("age", "gender") for i in range(6, 486, 6)]
    systems = {}
    for system, score in scores.items():
        pairs = {name: [score + (i % 2 - 0.5)] * 2 for i, name in enumerate(names)}
        systems[system] = {"pairs": pairs, "audit_pairs": pairs}
    about = {"queries_sha": "x", "judge": "toy", "label_source": "gold", "status": "ok", "steps": steps}
    return {"point": point, "seed": seed, "systems": systems} | about


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


def verdicts(text: str) -> dict[str, str]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    return {line[0]: line[-1] for line in lines}


def test_failed_point_tells_its_reason_and_untrained_ones_no_seeds(findings):
    failed = {"point": {"heard": "Piper"}, "seed": 0, "status": "failed", "reason": "made: it needs piper-tts"}
    spoken = row({"heard": "as in the test"}, 0, {"sft_fifth": 2.0, "grpo": 2.5})
    write(findings.ROOT / "results/sweep_generalisation.jsonl", [spoken, failed])
    told = verdicts(findings.claims(findings.GENERALISATION))
    # grpo is 0.5 above its start on every pair alike, so that no variance is known
    assert told["GRPO is better than its start: as in the test"] == "no interval, these policies alone"
    assert told["... Piper, in which no style can be heard"] == "open: failed (made: it needs piper-tts)"
    assert told["GRPO is better than its start: without noise"] == "open: not run"


def test_domains_are_told_apart(findings):
    rows = [row({"domain": domain}, seed, {"sft_fifth": 2.0, "grpo": 2.5 + seed / 100}, steps=120)
            for domain in ("first", "second") for seed in (1, 2, 3)]  # fmt: skip
    write(findings.ROOT / "results/sweep_domains.jsonl", rows)
    told = verdicts(findings.claims(findings.GENERALISATION))
    halves = [verdict for claim, verdict in told.items() if claim.startswith("RL on the ")]
    assert halves == ["agrees, 3 seeds"] * 4


def test_correlation_is_held_against_the_papers(findings):
    for values, expected in (((0.80, 0.81), "agrees"), ((0.5, 0.51), "disagrees"), ((0.6, 0.8), "undecided")):
        rows = [row({"share": 0.9}, seed, {"grpo": 2.0}, 120) | {"columns": {"correlation": value}}
                for seed, value in enumerate(values)]  # fmt: skip
        write(findings.ROOT / "results/sweep_budget.jsonl", rows)
        told = verdicts(findings.claims(findings.BUDGET))
        assert told["A tenth of the budget makes a usable reward model"] == f"{expected}, 2 seeds"
        assert told["More of the budget for demonstrations is better"] == "open: not run"
