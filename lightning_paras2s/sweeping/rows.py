"""The rows of a sweep: one a run, with all that a figure needs (scores by contrast pair, curves, cost), by content."""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

import lightning_paras2s
from lightning_paras2s.bench.alike import HASHES
from lightning_paras2s.bench.queries.manifest import read_queries
from lightning_paras2s.bench.summary import mean_score
from lightning_paras2s.bench.verdicts import counted_scores
from lightning_paras2s.errors import UserError
from lightning_paras2s.running.files import rows_in
from lightning_paras2s.running.logs import RESULT, Judging, Log, read_summary, replace_jsonl, say
from lightning_paras2s.running.machine import cpu_name
from lightning_paras2s.sweeping.board import write_hparams
from lightning_paras2s.sweeping.runs import commits_of, seconds_of
from lightning_paras2s.types import response_id

if TYPE_CHECKING:
    from lightning_paras2s.sweeping.planning import Run

ROWS = 1  # raise it where a row of the same run would mean something else: all is then run again
KEPT = ("mean", "ci95", "n", "n_failed", "n_pairs", "detectable_difference", "wer", "pair_accuracy",
        "pair_accuracy_ci95", "label_swap_gain")  # fmt: skip
PROBES = ("judge", "audit", "wer", "wer_outside")  # of held-out queries while it trains, where a run is watched
PLACED = ("sweep", "point", "config_sha", "parts", "recipe")  # what a row says of the sweep that it stands in
PART_OF = {"skills": "skills", "outside": "audit", "columns": "columns"}  # the other keys are the policy's
CURVES = {"reward": "train/reward", "kl": "train/kl", "zero_variance": "train/zero_std_groups"}


class Rows:
    """A file of rows, one a run; a run that is done again replaces its row.

    Args:
        lock: held while the file is written: runs of one sweep may end at the same time in several processes.
    """

    def __init__(self, path: Path, lock: Path) -> None:
        self.path, self.lock = path, lock

    def read(self) -> dict[str, dict[str, Any]]:
        """Hash of a run -> its row.

        Raises:
            UserError: a line is no row.
        """
        try:
            return {row["config_sha"]: row for row in rows_in(self.path)}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path} must hold a row of `sweep` a line; got another ({error}); mend it") from None

    def done(self, retry: bool) -> set[str]:
        """Runs that are not to be run."""
        return {sha for sha, row in self.read().items() if row["status"] == "ok" or not retry}

    def known_elsewhere(self, runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
        """Hash of a run -> its row, of those runs that another sweep with rows in this folder has done, with all that
        they are to tell."""
        others = [path for path in sorted(self.path.parent.glob("*.jsonl")) if path != self.path]
        rows = [row for path in others for row in rows_in(path, holds='"parts": {') if row["status"] == "ok"]
        found = {}
        for run in runs:
            if row := next((row for row in rows if run.parts.items() <= row["parts"].items()), None):
                row = {key: value for key, value in row.items() if PART_OF.get(key, "policy") in run.parts}
                about = {key: value for key, value in row_of(run, "ok", "").items() if key in PLACED}
                found[run.sha] = row | about | {"taken_from": f"{row['sweep']} {row['config_sha']}"}
        return found

    def add_known(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows:
            say(f"{row['sweep']}, {row['point']}, seed {row['seed']}: the same run as {row['taken_from']}; row taken")
            self._add(row)

    def add_finished(self, run: Run) -> None:
        row = row_of(run, "ok", "") | scores_of(run) | training_of(run)
        if run.columns:
            row["columns"] = {name: logged(run, *place.split(":", 1)) for name, place in run.columns.items()}
        self._add(row)
        if run.stages:
            write_hparams(run.work.folder, run.stages, row)

    def add_failed(self, run: Run, reason: str) -> None:
        self._add(row_of(run, "failed", reason))

    def _add(self, row: dict[str, Any]) -> None:
        with self._locked():
            replace_jsonl(self.path, (self.read() | {row["config_sha"]: row}).values())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        with self.lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def row_of(run: Run, status: str, reason: str) -> dict[str, Any]:
    """What any run's row says."""
    return {
        "sweep": run.work.folder.parent.name,
        "point": run.point,
        "seed": run.seed,
        "config_sha": run.sha,
        "parts": run.parts,
        "recipe": run.recipe,
        "rows": ROWS,
        "version": lightning_paras2s.__version__,
        "commits": commits_of(run.work),
        "status": status,
        "reason": reason,
        "precision": precision_of(run),
        "cpu": cpu_name(),
        "threads": run.work.threads,
        "seconds": seconds_of(run.work),
    }


def precision_of(run: Run) -> str:
    """Of the last stage: as its run settled it, else as it was asked for."""
    if not run.stages:
        return "nothing is trained"
    stage, tree = list(run.stages.items())[-1]
    path = run.work.folder / stage / "config.yaml"
    settled = yaml.safe_load(path.read_text()).get("trainer", {}) if path.is_file() else {}
    return str(settled.get("precision") or tree.get("trainer", {}).get("precision", "not set"))


def scores_of(run: Run) -> dict[str, Any]:
    """What `evaluate` and `skills` say of each system; scores by contrast pair, so that seeds can be pooled."""
    folder = run.work.folder / "evaluate"
    summary = read_summary(folder / "summary.json", ("systems", "queries_sha", "manifest", "samples", *Judging._fields))
    asked = read_queries(summary["manifest"], None)
    queries = {q.id: (f"{q.factor}/{q.pair_id}", q.label) for q in asked}
    heard, audit = summary.get("audit", {}).get("systems", {}), {}
    if "audit" in summary:
        audit = counted_scores(Log(folder / "audit"), summary["audit"], asked)
    logs = {"pairs": counted_scores(Log(folder), summary, asked), "audit_pairs": audit}
    found = {}
    for system, cells in summary["systems"].items():
        whole, toned = cells["overall"], heard.get(system, {}).get("overall", {})
        found[system] = {key: whole.get(key) for key in KEPT}
        found[system] |= {"audit_mean": toned.get("mean"), "audit_ci95": toned.get("ci95")}
        found[system] |= {key: by_pair(scores, system, queries, summary["samples"]) for key, scores in logs.items()}
    about = ("judge", "label_source", "queries_sha", *HASHES)  # the hashes are not in the oldest summaries
    row = {key: summary[key] for key in about if key in summary} | {"systems": found}
    told = run.work.folder / "skills.json"
    if "skills" in run.work.commands:
        row["skills"] = json.loads(told.read_bytes().splitlines()[-1])["skills"]
    if "audit" in run.work.commands:
        outside = json.loads((folder / "outside.json").read_text(encoding="utf-8"))
        row["outside"] = {key: outside[key] for key in ("systems", "notes", "pairs_a_factor")}
    return row


def by_pair(
    scores: dict[str, list[float | None]], system: str, queries: dict[str, tuple[str, str]], samples: int
) -> dict[str, list[float | None]]:
    """Factor/pair -> the scores of its halves, by style: each the mean of the scored verdicts on all samples of its
    answer; None = unscored.

    Args:
        scores: response id -> scores.
        queries: query id -> factor/pair and style.
        samples: answers a query.
    """
    found: dict[str, list[float | None]] = {}
    for query, (pair, _) in sorted(queries.items(), key=lambda item: item[1]):
        ids = [response_id(system, query, sample) for sample in range(samples)]
        score = mean_score(s for i in ids for s in scores.get(i, ()))
        found.setdefault(pair, []).append(score if np.isfinite(score) else None)
    return found


def training_of(run: Run) -> dict[str, Any]:
    """Steps, seconds, and the curves of the last stage; means over its last quarter of steps."""
    if not run.stages:
        return {"trained": False, "steps": 0, "responses": 0, "train_seconds": 0.0}
    stage = list(run.stages)[-1]
    lines = metrics_of(run, stage)
    probed = [line for line in lines if any(line.get(f"probe/{name}") is not None for name in PROBES)]
    lines = [line for line in lines if line.get("train/reward") is not None]
    tail = lines[-math.ceil(len(lines) / 4) :] if lines else []
    ends = {name: ended(run, name) for name in run.stages}
    row: dict[str, Any] = {"trained": True, "stage": stage, "steps": ends[stage]["steps"]}
    row["responses"] = sum(end["batches"] * end["ranks"] * run.batches[name] for name, end in ends.items())
    known = [line["seconds/step"] for line in lines if line.get("seconds/step")]
    # not each step need be logged; of a stage that logs none (SFT) only `seconds` tells, its start included
    row["train_seconds"] = round(float(np.mean(known)) * ends[stage]["batches"], 1) if known else None
    row["last_quarter"] = {name: mean(tail, key) for name, key in CURVES.items()}
    row["zero_variance_share"] = mean(lines, CURVES["zero_variance"])
    row["curves"] = {name: [rounded(line.get(key)) for line in lines] for name, key in CURVES.items()}
    if probed:
        row["probes"] = {name: [rounded(line.get(f"probe/{name}")) for line in probed] for name in PROBES}
        row["probes"]["step"] = [line["step"] for line in probed]
    return row


def ended(run: Run, stage: str) -> dict[str, Any]:
    """What `fit` returned of a stage: its steps and batches.

    Raises:
        UserError: it wrote none.
    """
    path = run.work.folder / stage / RESULT
    if not path.is_file():
        raise UserError(
            f"a stage must have written {path}, which tells its steps; it is not there; remove {stage}.done beside its "
            "folder and sweep with --retry true: what is trained stays"
        )
    return json.loads(path.read_text())


def metrics_of(run: Run, stage: str) -> list[dict[str, Any]]:
    return rows_in(run.work.folder / stage / "metrics.jsonl")


def logged(run: Run, stage: str, metric: str) -> float:
    """The last value of a metric.

    Raises:
        UserError: there is none.
    """
    known = [line[metric] for line in metrics_of(run, stage) if line.get(metric) is not None]
    if not known:
        raise UserError(f"columns must name what a stage logs; got no {metric} of {stage}; correct it in the grid")
    return rounded(known[-1])


def mean(lines: list[dict[str, Any]], key: str) -> float | None:
    known = [line[key] for line in lines if line.get(key) is not None]
    return rounded(float(np.mean(known))) if known else None


def rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
