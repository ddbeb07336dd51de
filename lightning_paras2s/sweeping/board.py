"""A sweep's runs in TensorBoard's HParams tab: each stage's hyper-parameters, and beside the last stage's what came out
of the run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

TRAINER = ("max_steps", "precision")  # of the trainer's options, those that a comparison of runs asks for


def write_hparams(folder: Path, stages: dict[str, dict[str, Any]], row: dict[str, Any]) -> None:
    """Beside each stage's curves: its values, those of the point and the seed; beside the last one's the run's scores,
    too, as scalars (by the judge's ears and by the audit's).

    Args:
        folder: of the run; a stage's is in it.
        stages: name of a stage -> its merged configs and options.
        row: of the run.
    """
    for stage, tree in stages.items():
        values = {"stage": stage} | {key: text(value) for key, value in (row["point"] | {"seed": row["seed"]}).items()}
        write_session(
            folder / stage,
            f"{row['config_sha']} {stage}",
            values | {key: value for key, value in hyper_parameters(tree).items() if key not in values},
            scores_of(row) if stage == list(stages)[-1] else {},
            row["steps"] or 0,
        )


def hyper_parameters(tree: dict[str, Any]) -> dict[str, Any]:
    """What a stage's configs and options set of its model, data and length; paths are none."""
    trainer, data, model = (tree.get(part) or {} for part in ("trainer", "data", "model"))
    found = {key: trainer[key] for key in TRAINER if key in trainer}
    source = (data.get("init_args") or {}).get("source")
    for part in (model, data, source if isinstance(source, dict) else {}):
        found |= {key: value for key, value in plain(part.get("init_args") or {}).items() if key not in found}
    return found


def plain(options: dict[str, Any]) -> dict[str, bool | float | str]:
    """Options as HParams takes them: a class is its name; paths and what is not set are left out."""
    named = {key: value["class_path"].split(".")[-1] if isinstance(value, dict) and "class_path" in value else value
             for key, value in options.items() if value is not None}  # fmt: skip
    return {key: text(value) for key, value in named.items() if "/" not in str(value)}


def text(value: Any) -> bool | float | str:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def scores_of(row: dict[str, Any]) -> dict[str, float]:
    scores = {}
    for system, cells in row["systems"].items():
        scores |= {f"sweep/{system}/score": cells["mean"], f"sweep/{system}/audit": cells["audit_mean"]}
    return {tag: value for tag, value in scores.items() if value is not None}


def write_session(folder: Path, name: str, values: dict[str, Any], scores: dict[str, float], step: int) -> None:
    """An event file of HParams, beside those of the curves."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder), filename_suffix=".sweep")
    known = [Summary.Value(tag=tag, simple_value=value) for tag, value in scores.items()]
    for summary in (hparams_pb(values, trial_id=name), Summary(value=known)):
        writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
    writer.close()
