"""A sweep's runs in TensorBoard's HParams tab, a line each: the point, the seed, each stage's hyper-parameters, and the
scores.

They lie in a folder of their own beside the stages' curves: the tab shows the first few values of a line and the first
few scalars of its folder, by name and those that differ first, which would be the curves' and not the scores. A stage
is named as in the grid, {grpo}, which puts its values behind the point's.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

FOLDER = "scores"  # of a run, beside those of its stages
TRAINER = ("max_steps", "precision")  # of the trainer's options, those that a comparison of runs asks for


def write_hparams(folder: Path, stages: dict[str, dict[str, Any]], row: dict[str, Any]) -> None:
    """A run's values, and its scores as scalars (by the judge's ears and by the audit's).

    Args:
        folder: of the run.
        stages: name of a stage -> its merged configs and options.
        row: of the run.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    values = {key: text(value) for key, value in (row["point"] | {"seed": row["seed"]}).items()}
    for stage, tree in stages.items():
        told = hyper_parameters(tree)
        values |= {f"{{{stage}}}.{key}": value for key, value in told.items() if key not in row["point"]}
    known = [Summary.Value(tag=tag, simple_value=value) for tag, value in scores_of(row).items()]
    writer = EventFileWriter(str(folder / FOLDER), filename_suffix=".sweep")
    for summary in (hparams_pb(values, trial_id=row["config_sha"]), Summary(value=known)):
        writer.add_event(Event(wall_time=time.time(), step=row["steps"] or 0, summary=summary))
    writer.close()


def hyper_parameters(tree: dict[str, Any]) -> dict[str, Any]:
    """What a stage's configs and options set of its model, data and length; paths are none."""
    trainer, data, model = (tree.get(part) or {} for part in ("trainer", "data", "model"))
    found = {key: trainer[key] for key in TRAINER if key in trainer}
    source = (data.get("init_args") or {}).get("source")
    if isinstance(source, dict):
        data = {"init_args": data["init_args"] | {"source": source["class_path"].split(".")[-1]}}
        found |= plain(source.get("init_args") or {})
    for part in (model, data):
        found |= plain(part.get("init_args") or {})
    return found


def plain(options: dict[str, Any]) -> dict[str, bool | float | str]:
    """Options as HParams takes them; paths and what is not set are left out."""
    found = {key: text(named(value)) for key, value in options.items() if value is not None}
    return {key: value for key, value in found.items() if "/" not in str(value)}


def named(value: Any) -> Any:
    """A class that numbers make (PerStream, Sampling) is these numbers, any other its name."""
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    numbers = value.get("init_args") or {}
    known = numbers and all(isinstance(number, int | float) for number in numbers.values())
    return numbers if known else value["class_path"].split(".")[-1]


def text(value: Any) -> bool | float | str:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def scores_of(row: dict[str, Any]) -> dict[str, float]:
    scores = {}
    for system, cells in row["systems"].items():
        scores |= {f"sweep/{system}/score": cells["mean"], f"sweep/{system}/audit": cells["audit_mean"]}
    return {tag: value for tag, value in scores.items() if value is not None}
