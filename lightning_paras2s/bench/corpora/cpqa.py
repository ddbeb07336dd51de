"""CPQA, contextual paralinguistic question answering (arXiv 2505.13338): questions about speech in the wild.

A folder that `datasets` saved: ROOT[/split]/data-00000-of-00001.arrow beside dataset_info.json and state.json, with
context (the recording), instruction and answer. NOT CONFIRMED: the hub's page says that it was saved with
save_to_disk, and the same group's MNSC and AudioBench use these three columns; neither its card's columns nor the
data were seen.

Traps: such a folder is no Parquet, and the hub's viewer and load_dataset fail on it; files cache-*.arrow beside it
are left-overs of a transformation, not data. Anything else in a row that is text or number is kept as a label.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lightning_paras2s.bench.corpora.mnsc import asked
from lightning_paras2s.bench.corpora.rows import Row
from lightning_paras2s.bench.corpora.tables import arrow_files
from lightning_paras2s.errors import UserError

LICENSE = "see its card"


def read(root: Path) -> Iterator[Row]:
    files = arrow_files(root)
    if not files:
        raise UserError(f"root must be the folder of CPQA that `datasets` saved, with .arrow in it; got none in {root}")
    for path in files:
        subset = "" if path.parent == root else path.parent.relative_to(root).as_posix()
        yield from asked(path, subset, root)
