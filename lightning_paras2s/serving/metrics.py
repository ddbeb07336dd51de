"""What a server has done, as Prometheus reads it and as it is told at the end."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import numpy as np

from lightning_paras2s.bench.systems.base import Answer
from lightning_paras2s.types import Audio

BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds of latency
REMEMBERED = 10_000  # latencies of which quantiles are told


class Metrics:
    """Counts and times since the start."""

    def __init__(self) -> None:
        self.accepted, self.batches, self.rows, self.votes = 0, 0, 0, 0
        self.dropped: Counter[str] = Counter()  # connections that were ended, by why
        self.statuses: Counter[int] = Counter()
        self.compute_seconds, self.heard_seconds, self.spoken_seconds = 0.0, 0.0, 0.0
        self.latencies: deque[float] = deque(maxlen=REMEMBERED)
        self.buckets: Counter[float] = Counter()
        self.latency_sum, self.latency_count = 0.0, 0

    def batch(self, rows: int, seconds: float, heard: list[Audio], answers: list[Answer]) -> None:
        self.batches, self.rows = self.batches + 1, self.rows + rows
        self.compute_seconds += seconds
        self.heard_seconds += sum(audio.seconds for audio in heard)
        self.spoken_seconds += sum(a.audio.seconds for a in answers if a.audio is not None)

    def answered(self, status: int, seconds: float | None) -> None:
        """A response left; only good ones of a system (`seconds` is theirs alone) count as latency."""
        self.statuses[status] += 1
        if status != 200 or seconds is None:
            return
        self.latencies.append(seconds)
        self.latency_sum, self.latency_count = self.latency_sum + seconds, self.latency_count + 1
        for bound in BUCKETS:
            self.buckets[bound] += seconds <= bound

    def summary(self) -> dict[str, Any]:
        """What the command returns."""
        quantiles = np.quantile(self.latencies, (0.5, 0.95)).tolist() if self.latencies else (None, None)
        factor = self.compute_seconds / self.spoken_seconds if self.spoken_seconds else None
        return {
            "accepted": self.accepted,
            "votes": self.votes,
            "dropped": dict(sorted(self.dropped.items())),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "batches": self.batches,
            "rows_a_batch": self.rows / self.batches if self.batches else None,
            "latency_p50_seconds": quantiles[0],
            "latency_p95_seconds": quantiles[1],
            "heard_seconds": round(self.heard_seconds, 2),
            "spoken_seconds": round(self.spoken_seconds, 2),
            "compute_seconds": round(self.compute_seconds, 2),
            "real_time_factor": factor,
        }

    def prometheus(self, waiting: int) -> str:
        """The text format, version 0.0.4."""
        counters = {
            "accepted_total": (self.accepted, "requests that got into the queue"),
            "votes_total": (self.votes, "blind votes of the page"),
            "batches_total": (self.batches, "batches answered"),
            "rows_total": (self.rows, "requests answered in batches"),
            "compute_seconds_total": (self.compute_seconds, "seconds in the system"),
            "heard_seconds_total": (self.heard_seconds, "seconds of speech heard"),
            "spoken_seconds_total": (self.spoken_seconds, "seconds of speech spoken"),
        }
        lines = []
        for name, (value, told) in counters.items():
            lines += [f"# HELP paras2s_{name} {told}", f"# TYPE paras2s_{name} counter", f"paras2s_{name} {value}"]
        lines += ["# HELP paras2s_waiting requests in the queue", "# TYPE paras2s_waiting gauge"]
        lines += [f"paras2s_waiting {waiting}", "# HELP paras2s_responses_total responses by status"]
        lines += ["# TYPE paras2s_responses_total counter"]
        lines += [f'paras2s_responses_total{{status="{s}"}} {n}' for s, n in sorted(self.statuses.items())]
        lines += ["# HELP paras2s_dropped_total connections that were ended, by why"]
        lines += ["# TYPE paras2s_dropped_total counter"]
        lines += [f'paras2s_dropped_total{{why="{why}"}} {n}' for why, n in sorted(self.dropped.items())]
        lines += ["# HELP paras2s_latency_seconds of good answers", "# TYPE paras2s_latency_seconds histogram"]
        lines += [f'paras2s_latency_seconds_bucket{{le="{bound:g}"}} {self.buckets[bound]}' for bound in BUCKETS]
        lines += [f'paras2s_latency_seconds_bucket{{le="+Inf"}} {self.latency_count}']
        lines += [f"paras2s_latency_seconds_sum {self.latency_sum}"]
        return "\n".join([*lines, f"paras2s_latency_seconds_count {self.latency_count}", ""])
