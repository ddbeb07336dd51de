"""Shows a command's result.

A command returns what `--json` prints; a function of its name says how that reads. `missing` tells why nothing came
out: the command line then ends with exit code 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.text import Text

from lightning_paras2s.shown import judges, queries, results, training
from lightning_paras2s.shown.screen import WIDTH, Result, Shown

SHOWN: dict[str, Callable[[Result, Result], Shown]] = {
    made.__name__: made
    for made in (
        *(queries.mine, queries.synthesize, queries.filter, queries.deal, queries.demonstrate, queries.import_speech),
        *(results.bench, results.evaluate, results.audit, results.leaderboard, results.headline, results.skills),
        *(results.report, results.arena, results.voicebench, results.serve),
        *(judges.agreement, judges.leakage, judges.judge_table),
        *(training.fit, training.chain, training.plan, training.sweep),
    )
}


def show(command: str, result: Any, options: Result, program: str, quiet: bool) -> str:
    """Print a command's result on stdout and the next command on stderr, so that a table can go to a file.

    `quiet` prints neither.

    Returns:
        Why nothing came out; "" where something did.
    """
    if command not in SHOWN or not isinstance(result, dict):
        return ""
    shown = SHOWN[command](result, options)
    if quiet:
        return shown.missing
    console = Console(width=WIDTH, highlight=False)
    for part in shown.parts:
        console.print(Text(part) if isinstance(part, str) else part)
    if shown.next and not shown.missing:
        print(f"next: {program} {shown.next}", file=sys.stderr)
    return shown.missing
