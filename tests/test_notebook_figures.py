"""What the notebooks draw can be read: no tick lies on another, nor a mark, and planned points keep their place."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from lightning_paras2s.sweeping.claimed import ABLATIONS
from lightning_paras2s.sweeping.claims import Claim
from lightning_paras2s.sweeping.figures import Figures, came_out
from lightning_paras2s.sweeping.panels import spread

ROOT = Path(__file__).parents[1]
DRAWN = {  # sweep: what stands on its axis
    "beta": "beta", "G_steps": "G", "B_steps": "B", "B_rollouts": "B", "scale": "scale", "reward": "asked",
    "reward_labels": "labels", "generalisation": "heard", "domains": "domain",
}  # fmt: skip


@pytest.fixture(autouse=True)
def unseen(monkeypatch):
    """Figures stay open instead of being shown."""
    mpl.use("Agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.close("all")
    yield
    plt.close("all")


@pytest.mark.parametrize("name", DRAWN)
def test_no_ticks_lie_on_each_other(name):
    """The eight ways of speaking of sweep_generalisation were one black smear."""
    Figures(ROOT).draw(f"sweep_{name}", lambda p: p[DRAWN[name]], ["said"], "axis")
    figure = plt.gcf()
    figure.canvas.draw()
    for axis in figure.axes:
        boxes = [label.get_window_extent() for label in axis.get_xticklabels() if label.get_text()]
        assert all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False)), axis.get_xlabel()


def test_no_mark_lies_on_another_and_one_seed_is_hollow():
    """Two systems' marks stood at one place, so that one hid the other's."""
    rows = [made(seed, 3.0, ("sft", "grpo")) for seed in (1, 2)]
    _, axis = plt.subplots()
    spread(axis, [("a", rows), ("b", []), ("c", rows[:1])], [])
    bars = [bar.lines[0] for bar in axis.containers]
    places = [float(bar.get_xdata()[0]) for bar in bars]
    assert len(set(places)) == len(places) == 2 * 4 and not any(0.5 < place < 1.5 for place in places)
    assert [bar.get_markerfacecolor() == "white" for bar in bars] == [place > 1.5 for place in places]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a\n2 seeds", "b\nnot run", "c\n1 seed"]


def test_new_rows_are_taken_without_an_edit(tmp_path):
    """B 32, which was planned and not run, and a point that nobody planned."""
    shipped = (ROOT / "results/sweep_B_steps.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, shipped) if row["point"] == {"B": 16}]
    more = [row | {"point": {"B": size}} for size in (32, 64) for row in rows]
    (tmp_path / "results").mkdir()
    (tmp_path / "results/sweep_B_steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    figures = Figures(tmp_path)
    figures.draw("sweep_B_steps", lambda p: p["B"], ["said"], "B")
    ticks = [label.get_text() for label in plt.gcf().axes[1].get_xticklabels()]
    assert ticks == ["4\nnot run", "8\nnot run", "16\n3 seeds", "32\n3 seeds", "64\n3 seeds"]
    told = figures.verdicts(*ABLATIONS).data
    assert "| A larger batch is better at equal steps: 16 to 32 queries a step |" in told.split("**Open**")[0]


@pytest.mark.parametrize(
    ("paper", "verdict", "outcome"),
    [
        ("Fig. 3c", "agrees, 3 seeds", "Agreed"),
        ("section 5.3", "fewer are enough, 5 times is possible, 3 seeds", "Agreed"),
        ("Fig. 3b", "higher, 3 seeds", "Did not agree"),  # groups of sixteen, of which the paper tells no gain
        ("Fig. 3c", "disagrees, 3 seeds", "Did not agree"),
        ("Fig. 3a", "undecided, 3 seeds", "Undecided"),
        ("Fig. 3a", "open: 2 seeds, in which the first is higher", "Open"),
        ("not shown", "agrees, 3 seeds", "Asked beyond the paper's words"),
    ],
)
def test_verdicts_are_sorted_by_what_came_of_the_papers_claims(paper, verdict, outcome):
    assert came_out(paper, verdict) == outcome


def test_every_claim_stands_once_at_the_end(tmp_path):
    claims = (
        Claim("whole", "Fig. 3a", "beta", "beta", 1, 2, "any"),
        Claim("... a part", "Fig. 3a", "beta", "beta", 1, 3, "any"),
    )
    told = Figures(tmp_path).verdicts(*claims).data
    assert told.startswith("**Open: 2**") and "| whole |" in told and "| whole: a part |" in told


def made(seed: int, score: float, systems: tuple[str, ...]) -> dict:
    pairs = {f"{f}/{i}": [score + (i % 2 - 0.5)] * 2 for f in ("age", "gender") for i in range(20)}
    cells = {"n": 80, "pairs": pairs, "audit_pairs": pairs}
    about = {"queries_sha": "x", "judge": "toy", "label_source": "gold", "steps": 4, "seed": seed}
    return {"systems": dict.fromkeys(systems, cells)} | about
