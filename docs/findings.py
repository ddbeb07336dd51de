"""Writes the tables and pictures of docs/findings.md from results/sweep_*.jsonl: python docs/findings.py (--check: only
compare). A picture is current if it was made of the rows that are there: it holds their hash."""

from __future__ import annotations

import gzip
import hashlib
import json
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
from lightning_paras2s.sweeping.claims import (
    HEADER,
    METRICS,
    AnyClaim,
    Claim,
    ColumnClaim,
    EveryClaim,
    RatioClaim,
    TimesClaim,
    ValueClaim,
    interval,
    number,
    signed,
)
from lightning_paras2s.sweeping.pictures import SOURCES, picture
from lightning_paras2s.sweeping.points import (
    MIN_SEEDS,
    Results,
    Row,
    column,
    difference,
    gain,
    noise_of,
    over_seeds,
    score,
)
from lightning_paras2s.types import STYLES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/findings.md"
JUDGED = ("beta", "G_steps", "domains", "anchors", "reward")  # runs whose reward is the judge's, by what is heard
# What the policies of these sweeps learn from; those of all others learn from all queries, and one seed draws alike.
LEARNED_FROM = {"domains": "half of the topics", "anchors": "queries with a best answer"}
BESIDE = ("labels", "labels_reward", "unlabelled")  # systems a run, of which the others start from the first
TRAINED = ("grpo", "sft_fifth")
START, END = "<!-- from the rows -->\n", "<!-- end -->\n"

BETA_AND_G = (
    Claim("The score without a KL against that of beta .2", "not told in words", "beta", "beta", 0.2, 0.0, "any"),
    *(
        ValueClaim(f"Without a KL more is forgotten: {name}", "Fig. 3c: VoiceBench drops, no digits", "beta", "beta",
                   0.2, 0.0, "kept", ("skills", skill, "grpo", "change"))
        for skill, name in (("repeat", "repeating"), ("read", "reading aloud"), ("answer", "answering"),
                            ("name", "naming"))
    ),
    Claim("With too large a beta the score falls", "Fig. 3c, no digits", "beta", "beta", 0.2, 0.8, "higher"),
    ValueClaim("With too large a beta less is learned", "Fig. 3c, no digits", "beta", "beta", 0.2, 0.8,
               "reward, last quarter of steps", ("last_quarter", "reward")),
    Claim("G = 2 is worse than 8 at equal steps", "Fig. 3b, no digits", "G_steps", "G", 8, 2, "higher"),
    ValueClaim("Two answers get the same score more often than eight", "A.6: often, no digits", "G_steps", "G", 2, 8,
               "equal groups", ("zero_variance_share",)),
)  # fmt: skip
SHORT = tuple(claim._replace(sweep=f"{claim.sweep}_short") for claim in BETA_AND_G)
ABLATIONS = (
    *BETA_AND_G,
    Claim("G = 16 is no better than 8", "Fig. 3b, no digits", "G_steps", "G", 16, 8, "any"),
    Claim("G = 2 against 8 at equal rollouts", "not shown", "G_rollouts", "G", 8, 2, "any"),
    Claim("A larger batch is better at equal steps", "Fig. 3a, no digits", "B_steps", "B", 32, 4, "higher"),
    Claim("A larger batch at equal rollouts", "not shown", "B_rollouts", "B", 32, 4, "any"),
    Claim("The words' gradient against the voice's", "not ablated", "streams", "streams", "text", "audio", "any"),
    Claim("Advantages divided by their deviation, or not", "not ablated", "scale", "scale", "std", "none", "any"),
    Claim("The judge in the loop against the shipped reward model", "not ablated", "reward", "asked", "judge",
          "reward model", "any"),
)  # fmt: skip
SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)
CURVES = {
    "grpo": ("labels", "RL, judge in the loop"),
    "grpo_constrained": ("labels_reward", "RL, reward model of as many labels"),
    "grpo_unconstrained": ("labels_reward", "RL, reward model of all labels"),
}
EVERY = {"grpo_constrained": "section 5.2: in all data regimes, no digits"}
TIMES = (
    (0.1, 5.0, "section 5.3: RL on 10 h as SFT on 50"),
    (0.2, 5.0, "section 5.3: RL on 20 h as SFT on 100"),
    (0.05, 10.0, "section 5.2: more than ten times as much data"),
)
LABELS = (
    *(
        EveryClaim(f"{name}: better than SFT at every amount", EVERY.get(system, "not in words"), sweep, "share",
                   SHARES, (system, "sft"))
        for system, (sweep, name) in CURVES.items()
    ),
    *(
        Claim(f"... judge in the loop, share {share}", "not in words", "labels", "share", share, share, "higher",
              ("grpo", "sft"))
        for share in SHARES
    ),
    *(
        TimesClaim(f"{name}, {share:.0%}: SFT needs {times:g} times as many", said, sweep, "share", share, times,
                   (system, "sft"))
        for system, (sweep, name) in CURVES.items()
        for share, times, said in TIMES
    ),
    *(
        RatioClaim(f"{name}, 10%: 1.171 times the score of SFT", "section 5.3: more than 17.1 %", sweep, "share",
                   0.1, 1.171, (system, "sft"))
        for system, (sweep, name) in CURVES.items()
    ),
    *(
        Claim(f"A reward model of all labels gains more, share {share}", "section 5.2: additional gains, no digits",
              "labels_reward", "share", share, share, "higher", ("grpo_unconstrained", "grpo_constrained"))
        for share in SHARES[:-1]
    ),
    *(
        Claim(f"The judge in the loop against a reward model of all labels, share {share}", "not shown", "labels",
              "share", share, share, "any", ("grpo", "grpo_unconstrained"), other="labels_reward")
        for share in SHARES
    ),
)  # fmt: skip
UNLABELLED = (
    Claim("RL without a warm-up gains on the base policy", "section 5.3: it can't, no digits", "unlabelled", "share",
          0.0, 0.0, "any", ("grpo", "base")),
    Claim("A warm-up of 5 % is better than none", "section 5.3: critical, no digits", "labels", "share", 0.05, 0.0,
          "higher", ("grpo", "grpo"), other="unlabelled"),
    Claim("Rejection sampling without labels gains on the base policy", "not shown", "unlabelled", "share", 0.0, 0.0,
          "any", ("rejection", "base")),
    Claim("... against SFT on 5 %", "not shown", "unlabelled", "share", 0.0, 0.05, "any", ("rejection", "sft"),
          other="labels"),
)  # fmt: skip
BUDGET = (
    Claim("More of the budget for demonstrations is better", "Fig. 2b, no digits", "budget", "share", 0.7, 0.1,
          "higher"),
    Claim("... until the reward model correlates poorly", "Fig. 2b, no digits", "budget", "share", 0.9, 0.7, "any"),
    ColumnClaim("A tenth of the budget makes a usable reward model", "section 5.4: correlation 0.7 with 10 of 100 h",
                "budget", "share", 0.9, "correlation", 0.7),
)  # fmt: skip
REWARD_LABELS = (
    ColumnClaim("A tenth of the labels makes a usable reward model", "section 5.4: correlation 0.7 with 10 of 100 h",
                "reward_labels", "labels", 204, "correlation", 0.7),
    ColumnClaim("... and all of them do", "section 5.4: a strong one, no digits", "reward_labels", "labels", 2040,
                "correlation", 0.7),
    ValueClaim("Ten times as many labels correlate better", "section 5.4, no digits", "reward_labels", "labels", 2040,
               204, "correlation", ("columns", "correlation")),
    *(Claim(f"RL gains by a reward model of {labels:,} labels", "section 5.2, no digits", "reward_labels", "labels",
            labels, labels, "higher", TRAINED) for labels in (204, 2040)),
    Claim("... and by ten times as many labels more", "section 5.2: additional gains, no digits", "reward_labels",
          "labels", 2040, 204, "higher"),
)  # fmt: skip
CONDITIONS = ("as in the test", "without noise", "noise at -15 dB", "noise at -5 dB", "larger speakers",
              "smaller speakers", "wider prosody", "Piper")  # fmt: skip
REAL = "section 5.5, real speech: + 0.137 (IEMOCAP), + 0.042 (MELD)"
TABLE_8 = {
    ("first", "first"): "+ 0.098 (IEMOCAP)",
    ("second", "second"): "+ 0.593 (MELD)",
    ("first", "second"): "+ 0.523 (IEMOCAP to MELD)",
    ("second", "first"): "+ 0.128 (MELD to IEMOCAP)",
}
GENERALISATION = (
    *(Claim(f"GRPO is better than its start: {name}", REAL, "generalisation", "heard", name, name, "higher", TRAINED)
      for name in CONDITIONS[:-1]),
    Claim("... Piper, in which no style can be heard", "not shown", "generalisation", "heard", "Piper", "Piper", "any",
          TRAINED),
    *(Claim(f"GRPO's score, {name}", "not shown", "generalisation", "heard", name, CONDITIONS[0], "any")
      for name in CONDITIONS[1:]),
    *(Claim(f"RL on the {a} half of the topics gains on the {b}", f"Table 8: {told}", "domains", "domain", a, a,
            "higher", TRAINED, b) for (a, b), told in TABLE_8.items()),
)  # fmt: skip
HELD = ("reward_on", "held")
ANCHORS = (
    *(Claim(f"Reward on both streams against on the {name} alone", "not ablated", "anchors", HELD, ("both", "none"),
            (stream, "none"), "any") for stream, name in (("text", "words"), ("audio", "voice"))),
    *(Claim(f"The voice held, or not: reward on {name}", "not ablated", "anchors", HELD, (stream, "audio"),
            (stream, "none"), "any")
      for stream, name in (("text", "the words"), ("audio", "the voice"), ("both", "both streams"))),
)  # fmt: skip
HACKING = tuple(
    Claim(f"Whole judge in the loop against {name}", "not shown", "hacking", "judge", "whole", name, "any")
    for name in ("no gibberish rule", "no WER limit", "neither")
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
        ("beta", "G_steps", "G_rollouts", "B_steps", "B_rollouts", "streams", "scale", "reward"),
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


def tables() -> str:
    told = {title: claims(asked) for title, asked, _ in GROUPS}
    parts = [by_chance("\n".join(told.values()).splitlines())]
    for title, _, sweeps in GROUPS:
        parts += [f"### {title}", told[title]]
        for sweep in (sweep for sweep in sweeps if rows_of(sweep)):
            if sweep in SOURCES:
                parts.append(f"![The points of sweep_{sweep}, with their seeds](findings_{sweep}.png)")
            table = (systems_curve if sweep in BESIDE else curve)(sweep)
            parts.append(f"The points of `results/sweep_{sweep}.jsonl`:\n\n{table}")
        if "reward_labels" in sweeps:
            parts.append(orders())
    parts += ["### Why seeds differ", why_seeds_differ()]
    return "\n\n".join(parts) + "\n"


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


def old_pictures() -> list[str]:
    """Of the sweeps that have rows, those whose picture is missing or was made of others."""
    from PIL import Image

    paths = {name: PAGE.with_name(f"findings_{name}.png") for name in SOURCES if rows_of(name)}
    return [n for n, p in paths.items() if not p.is_file() or Image.open(p).info.get("Rows") != rows_sha(n)]


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    made = f"{before}{START}\n{tables()}\n{END}{after}"
    old = [PAGE] * (made != PAGE.read_text(encoding="utf-8"))
    pictures = {PAGE.with_name(f"findings_{name}.png"): name for name in old_pictures()}
    if not old and not pictures:
        print(f"{PAGE.relative_to(ROOT)} is current")
    elif "--check" in sys.argv:
        print(f"{', '.join(path.name for path in (*old, *pictures))} must be made again: run python docs/findings.py")
        sys.exit(1)
    else:
        PAGE.write_text(made, encoding="utf-8")
        for path, name in pictures.items():
            picture(name, Results(ROOT / "results")).savefig(path, dpi=100, metadata={"Rows": rows_sha(name)})
        print(f"wrote {', '.join(path.name for path in (*old, *pictures))}")


if __name__ == "__main__":
    main()
