"""A sweep's runs in TensorBoard's HParams tab: each point's values and seed beside what came out of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


def write_hparams(folder: Path, row: dict[str, Any]) -> None:
    """Beside a run's curves: its values, and its scores as scalars (by the judge's ears and by the audit's)."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    values = {key: value if isinstance(value, int | float | str) else json.dumps(value)
              for key, value in (row["point"] | {"seed": row["seed"]}).items()}  # fmt: skip
    scores = {}
    for system, cells in row["systems"].items():
        scores |= {f"sweep/{system}/score": cells["mean"], f"sweep/{system}/audit": cells["audit_mean"]}
    writer = EventFileWriter(str(folder), filename_suffix=".sweep")
    known = [Summary.Value(tag=tag, simple_value=value) for tag, value in scores.items() if value is not None]
    for summary in (hparams_pb(values, trial_id=row["config_sha"]), Summary(value=known)):
        writer.add_event(Event(wall_time=time.time(), step=row["steps"] or 0, summary=summary))
    writer.close()
