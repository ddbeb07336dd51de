"""Writes the tables and pictures of docs/findings.md from results/sweep_*.jsonl: python docs/findings.py (--check: only
compare). The claims are those of `sweeping/claimed.py`. A picture is current if it was made of the rows that are there,
by the code that is there: it holds a hash of either."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_paras2s.bench.people.resampling import FISHER, jackknife
from lightning_paras2s.bench.statistics import Estimate
from lightning_paras2s.modules.reward import agreement
from lightning_paras2s.sweeping import differences, pictures, points
from lightning_paras2s.sweeping.claimed import (
    ABLATIONS,
    ANCHORS,
    BUDGET,
    GENERALISATION,
    HACKING,
    LABELS,
    REWARD_LABELS,
    SHORT,
    UNLABELLED,
)
from lightning_paras2s.sweeping.claims import HEADER, METRICS, AnyClaim, interval, number, signed
from lightning_paras2s.sweeping.differences import difference, gain, noise_of, score
from lightning_paras2s.sweeping.pictures import SOURCES, picture
from lightning_paras2s.sweeping.points import MIN_SEEDS, TRAINED, Results, Row, column, over_seeds, own_start
from lightning_paras2s.types import STYLES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/findings.md"
# Whose reward is the judge's, by what is heard.
JUDGED = ("beta", "G_steps", "B_steps", "B_rollouts", "domains", "anchors", "reward")
# What the policies of these sweeps learn from; those of all others learn from all queries, and one seed draws alike.
LEARNED_FROM = {"domains": "half of the topics", "anchors": "queries with a best answer"}
START, END = "<!-- from the rows -->\n", "<!-- end -->\n"
GLANCE, GLANCE_END = "<!-- at a glance, from the rows -->\n", "<!-- end of the glance -->\n"
GLANCED = (
    "Without a KL more is forgotten: repeating",
    "With too large a beta the score falls",
    "G = 2 is worse than 8 at equal steps",
    "G = 16 is no better than 8",
    "A larger batch is better at equal steps",
    "A warm-up of 5 % is better than none",
    "RL, judge in the loop: better than SFT at every amount",
    "RL, judge in the loop, 20%: SFT needs 5 times as many",
    "RL, judge in the loop, 5%: SFT needs 10 times as many",
    "SFT goes on improving as its data grow, from 5 % to all",
    "RL, reward model of as many labels: better than SFT at every amount",
    "RL, reward model of as many labels, 10%: 1.171 times the score of SFT",
    "A reward model of all labels gains more, share 0.1",
    "A reward model of all labels gains more, share 0.2",
    "A tenth of the labels makes a usable reward model",
    "More of the budget for demonstrations is better",
    "RL on the first half of the topics gains on the second",
    "RL on the second half of the topics gains on the first",
)


def rows_of(sweep: str) -> list[tuple[dict[str, Any], list[Row]]]:
    return Results(ROOT / "results").points(sweep)


def claims(asked: Sequence[AnyClaim]) -> str:
    return "\n".join([HEADER, *(claim.line(Results(ROOT / "results")) for claim in asked)])


def orders() -> str:
    """A line an amount of labels of `sweep_reward_labels`; the shipped reward model hears the first one's samples."""
    path = ROOT / "results/reward_labels_val.jsonl.gz"
    found: dict[Any, list[list[float]]] = {}
    for line in gzip.decompress(path.read_bytes()).decode().splitlines() if path.is_file() else ():
        of = json.loads(line)
        expected, judged, factors = torch.tensor(of["expected"]), torch.tensor(of["judged"]), np.array(of["factors"])
        parts = [np.full(len(factors), True), *(factors == factor for factor in STYLES)]
        within = [agreement(expected[k], judged[k], np.array(of["query_ids"])[k].tolist()) for k in parts]
        found.setdefault(of["labels"], []).append([within[0]["pearson"], *(w["pearson_within"] for w in within)])
    lines = [
        "How the reward models' expected scores correlate with the judge's (`results/reward_labels_val.jsonl.gz`, four "
        "answers of `sft_fifth` to each of 320 held-out queries, n = 1,280 a seed): over all, as the paper tells it, "
        "and within the answers to a query, all that GRPO sees, also for each factor. Intervals are over seeds.\n",
        f"| labels | seeds | over all | within a query | {' | '.join(STYLES)} |",
        "|" + "---|" * (4 + len(STYLES)),
    ]
    for labels, seeds in sorted(found.items(), key=lambda item: (isinstance(item[0], str), item[0])):
        told = [interval(over_seeds(values)) for values in zip(*seeds, strict=True)]
        lines.append(f"| {labels} | {len(seeds)} | {' | '.join(told)} |")
    return "\n".join(lines)


def why_seeds_differ() -> str:
    """How much of a point's spread is the test's noise, and whether a seed that learned more also scores more."""
    lines = [
        "How far the scores of a point's seeds are apart, and how much of that is the noise of a test of so few "
        "queries (points with three seeds or more, whose reward was the judge's):\n",
        "| point | seeds | queries | deviation of the seeds | share of the test's noise |",
        "|" + "---|" * 5,
    ]
    runs: list[tuple[str, str, float, float]] = []
    for sweep in JUDGED:
        for point, rows in rows_of(sweep):
            own = [row for row in rows if "taken_from" not in row and point.get("asked") != "reward model"]
            scores = [row["systems"]["grpo"]["mean"] for row in own]
            if len(own) >= MIN_SEEDS:
                cells = [named(point), len(own), own[0]["systems"]["grpo"]["n"], f"{np.std(scores, ddof=1):.2f}"]
                lines.append(f"| {' | '.join(map(str, cells))} | {number(noise_of(own, 'grpo'))} |")
            for row, scored in zip(own, scores, strict=True) if len(own) > 1 else ():
                learned = row["last_quarter"]["reward"]
                drawn = f"{LEARNED_FROM.get(sweep, 'all queries')}, seed {row['seed']}"
                runs.append((f"{sweep} {named(point)}", drawn, learned, scored))
    return "\n".join([*lines, "", learned_more(runs)]) if runs else "Too few points have several seeds yet."


def learned_more(runs: Sequence[tuple[str, str, float, float]]) -> str:
    """Correlation of reward and score within points.

    Args:
        runs: point, what was drawn (data and seed: those who share them share draws, whatever their sweep), reward,
            score.
    """
    points, draws = (np.array([run[i] for run in runs]) for i in (0, 1))
    values = np.array([run[2:] for run in runs])

    def within(kept: NDArray) -> float:
        apart = [values[kept][points[kept] == point] for point in np.unique(points[kept])]
        return float(np.corrcoef(np.concatenate([of - of.mean(0) for of in apart]).T)[0, 1])

    found, ends = within(np.arange(len(runs))), jackknife(within, draws.tolist(), FISHER, fewest=8)
    told = interval(Estimate(found, ends.low, ends.high, len(runs), len(np.unique(draws))))
    return (
        f"Within the points, a run's reward in its last quarter of steps and its score in the test correlate by {told} "
        f"({len(runs)} runs of {len(np.unique(points))} points; the interval is over the {len(np.unique(draws))} pairs "
        "of data and seed, since runs that learn from the same queries by one seed share draws, whatever their sweep)."
    )


def curve(sweep: str) -> str:
    """A line a point."""
    lines = [
        "| point | seeds | score | audit | against the start | KL | equal groups | more |",
        "|" + "---|" * 8,
    ]
    start = Results(ROOT / "results").by("start", "policy").get("sft_fifth", [])
    for point, rows in rows_of(sweep):
        values: list[str] = [named(point), seeds_of(sweep, point, rows)]
        values += [interval(score(rows, "grpo", metric)) for metric in METRICS]
        alike = {row["queries_sha"] for row in start} == {rows[0]["queries_sha"]}
        values.append(signed(difference(rows, start, TRAINED)) if alike else "-")
        values.append(mean(rows, lambda row: row.get("last_quarter", {}).get("kl")))
        values.append(mean(rows, lambda row: row.get("zero_variance_share")))
        values.append(more(rows))
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines)


def systems_curve(sweep: str) -> str:
    """A line a point and system, beside what the others start from, which is the first."""
    lines = ["| point | seeds | system | score | audit | less the first | more |", "|" + "---|" * 7]
    for point, rows in rows_of(sweep):
        first, *_ = systems = list(rows[0]["systems"])
        for system in systems:
            values: list[str] = [named(point), seeds_of(sweep, point, rows), system]
            values += [interval(score(rows, system, metric)) for metric in METRICS]
            values.append("-" if system == first else signed(gain(rows, (system, first))))
            values.append(more(rows) if system == first else "-")
            lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines)


def named(point: dict[str, Any]) -> str:
    """By its plain values: a point with trees of options has a name beside them."""
    return ", ".join(f"{key} {value}" for key, value in point.items() if not isinstance(value, dict | list))


def seeds_of(sweep: str, point: dict[str, Any], rows: Sequence[Row]) -> str:
    """How many, and how many failed: those that are left may be the luckier ones."""
    failed = Results(ROOT / "results").failed(sweep, tuple(point), [tuple(point.values())])
    return f"{len(rows)}, {len(failed)} failed" if failed else str(len(rows))


def more(rows: Sequence[Row]) -> str:
    """What a sweep's rows hold besides: changes of skills, columns of its own, Whisper's word error rate and the score
    by what it heard."""
    asked = [row for row in rows if "skills" in row]
    told = [
        f"{skill} {mean(asked, lambda row, skill=skill: row['skills'][skill]['grpo']['change'], '+.2f')}"
        for skill in (asked[0]["skills"] if asked else ())
    ]
    told += [f"of {len(asked)} seeds"] if asked and len(asked) < len(rows) else []
    told += [f"{name} {column(rows, name).value:.2f}" for name in rows[0].get("columns", {})]
    if any("outside" in row for row in rows):
        wer, score_by_it = (
            mean(rows, lambda row, key=key: row.get("outside", {}).get("systems", {}).get("grpo", {}).get(key), ".2f")
            for key in ("wer_outside", "score_outside")
        )
        told.append(f"Whisper's WER {wer}, score {score_by_it}")
    return ", ".join(told) or "-"


def mean(rows: Sequence[Row], value: Callable[[Row], float | None], form: str = ".3f") -> str:
    known = [found for row in rows if (found := value(row)) is not None]
    return format(float(np.mean(known)), form) if known else "-"


GROUPS = (
    (
        "Beta, G and B (Fig. 3), and what the paper leaves open",
        ABLATIONS,
        (
            "beta",
            "G_steps",
            "G_rollouts",
            "B_steps",
            "B_rollouts",
            "streams",
            "scale",
            "betas",
            "ratio",
            "reward",
            "reading",
        ),
    ),
    ("The short recipe: 40 steps of 4 queries", SHORT, ("beta_short", "G_steps_short")),
    ("SFT against RL over the amount of demonstrations (Fig. 2a)", LABELS, ("labels", "labels_reward")),
    ("Without any demonstration or label", UNLABELLED, ("unlabelled",)),
    ("A budget of labels, split (Fig. 2b)", BUDGET, ("budget",)),
    ("How few labels make a usable reward model (section 5.4)", REWARD_LABELS, ("reward_labels",)),
    ("Other speech, other topics (section 5.5, Table 8)", GENERALISATION, ("generalisation", "domains")),
    ("Which stream the reward moves, and an anchor that holds the voice", ANCHORS, ("anchors",)),
    ("A judge that lacks a rule", HACKING, ("hacking",)),
)


def verdicts() -> dict[str, str]:
    """The claims of each group, a table each."""
    return {title: claims(asked) for title, asked, _ in GROUPS}


def tables(told: dict[str, str]) -> str:
    parts = [by_chance("\n".join(told.values()).splitlines())]
    for title, _, sweeps in GROUPS:
        parts += [f"### {title}", told[title]]
        for sweep, made in ((sweep, made) for sweep in sweeps if (made := rows_of(sweep))):
            if sweep in SOURCES:
                parts.append(f"![The points of sweep_{sweep}, with their seeds](findings_{sweep}.png)")
            table = (systems_curve if own_start(made[0][1][0]) else curve)(sweep)
            parts.append(f"The points of `results/sweep_{sweep}.jsonl`:\n\n{table}")
        if "reward_labels" in sweeps:
            parts.append(orders())
    parts += ["### Why seeds differ", why_seeds_differ()]
    return "\n\n".join(parts) + "\n"


def at_a_glance(told: dict[str, str]) -> str:
    """The paper's claims with their verdicts alone; where a claim is measured twice, the first table tells."""
    said = {}
    for title, table in told.items():
        for line in table.splitlines()[2:]:
            claim, paper, _, judge, *_, verdict = line.strip("| ").split(" | ")
            said.setdefault(claim, (paper, judge, verdict, title))
    lines = ["| claim | the paper | here, by the judge | verdict |", "|" + "---|" * 4]
    for claim in GLANCED:
        paper, judge, verdict, title = said[claim]
        lines.append(f"| {claim} | {paper} | {judge} | [{verdict}](#{anchor(title)}) |")
    return "\n".join(lines) + "\n"


def anchor(title: str) -> str:
    """Of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def by_chance(lines: Sequence[str]) -> str:
    """How many verdicts would be given if nothing were there."""
    verdicts = [line.split(" | ")[-1] for line in lines if line.startswith("| ") and line != HEADER]
    verdicts = [told for told in verdicts if not told.startswith(("open", "no interval", "verdict"))]
    sure = sum(not told.startswith(("undecided", "fewer are enough")) for told in verdicts)
    return (
        f"Of the {len(verdicts)} claims with a verdict below, {sure} leave 0, or the paper's figure, to one side. Of "
        f"as many claims about nothing, {len(verdicts) / 20:.1f} would, on average: no interval is corrected for their "
        "number."
    )


def rows_sha(name: str) -> str:
    """Of the rows that a picture is made of."""
    paths = (ROOT / f"results/sweep_{sweep}.jsonl" for sweep in SOURCES[name])
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths if path.is_file())).hexdigest()[:16]


def made_from(name: str) -> dict[str, str]:
    """Of the rows that a picture is made of, and of the code that sums them up and draws them."""
    code = b"".join(Path(module.__file__ or "").read_bytes() for module in (points, differences, pictures))
    return {"Rows": rows_sha(name), "Code": hashlib.sha256(code).hexdigest()[:16]}


def old_pictures() -> list[str]:
    """Of the sweeps that have rows, those whose picture is missing, or was made of others or by other code."""
    from PIL import Image

    paths = {name: PAGE.with_name(f"findings_{name}.png") for name in SOURCES if rows_of(name)}
    return [n for n, p in paths.items() if not p.is_file() or not made_from(n).items() <= Image.open(p).info.items()]


def between(start: str, end: str, made: str, page: str) -> str:
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{made}\n{end}{after}"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    told = verdicts()
    made = between(GLANCE, GLANCE_END, at_a_glance(told), between(START, END, tables(told), page))
    old = [PAGE] * (made != page)
    drawn = {PAGE.with_name(f"findings_{name}.png"): name for name in old_pictures()}
    if not old and not drawn:
        print(f"{PAGE.relative_to(ROOT)} is current")
    elif "--check" in sys.argv:
        print(f"{', '.join(path.name for path in (*old, *drawn))} must be made again: run python docs/findings.py")
        sys.exit(1)
    else:
        PAGE.write_text(made, encoding="utf-8")
        for path, name in drawn.items():
            picture(name, Results(ROOT / "results")).savefig(path, dpi=100, metadata=made_from(name))
        print(f"wrote {', '.join(path.name for path in (*old, *drawn))}")


if __name__ == "__main__":
    main()
