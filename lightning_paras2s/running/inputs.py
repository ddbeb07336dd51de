"""The files that a run is made from, by content: first weights, adapters' bases, scorers, manifests.

A run that goes on reads them again, and with them the reference of its KL: what lies there must be what lay there when
the run began. Their hashes stand in the run's folder, by path. A path that is another than before is an option that was
changed, and told as such.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.logs import replace_file
from lightning_paras2s.running.named import options_of_class
from lightning_paras2s.running.origins import content_sha
from lightning_paras2s.running.shipped import PACKAGE
from lightning_paras2s.running.source import Option

RECORD = "inputs.json"
PARTS = ("model", "data")
GROWING = ("batch_results",)  # a server's replies, which come while a run waits


def paths_in(tree: Any, where: str = "", known: Sequence[Option] = ()) -> Iterator[tuple[str, str]]:
    """Option and path of each `InputPath` that a config names: `model.init_from`, `data.train`.

    Args:
        known: options that the tree itself gives, where it is a command's; those of its classes are known.
    """
    if isinstance(tree, list):
        for value in tree:
            yield from paths_in(value, where)
    if not isinstance(tree, Mapping):
        return
    values = tree
    if "class_path" in tree:
        values, known = tree.get("init_args") or {}, options_of_class(str(tree["class_path"])) or ()
    files = {o.name for o in known if o.holds("InputPath") and o.name not in GROWING}
    for name, value in values.items():
        here = f"{where}.{name}".lstrip(".")
        if name in files:
            yield from ((here, text) for text in texts(value))
        else:
            yield from paths_in(value, here)


def texts(value: Any) -> list[str]:
    if isinstance(value, list | tuple | Mapping):
        return [t for one in (value.values() if isinstance(value, Mapping) else value) for t in texts(one)]
    return [value] if isinstance(value, str) and value else []


def inputs_of_run(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Path -> the option that names it, and the hash of what lies there; words that are no path are left out."""
    found = {}
    for option, path in paths_in({part: config.get(part) for part in PARTS}):
        place = Path(path) if Path(path).exists() else PACKAGE / path
        if path not in found and place.exists():
            found[path] = {"option": option, "sha": content_sha(place)}
    return found


def require_same(folder: Path, today: Mapping[str, Mapping[str, str]]) -> str:
    """Compare what a run that goes on is made from with what it began with.

    Returns:
        A line where nothing tells what it began with; else "".

    Raises:
        UserError: something else lies at a path.
    """
    if not (folder / RECORD).is_file():
        names = ", ".join(today)
        return f"{folder} does not tell what it began with; it goes on with {names} as now there" if names else ""
    before = json.loads((folder / RECORD).read_text())
    for path, now in today.items():
        if path in before and before[path]["sha"] != now["sha"]:
            raise UserError(
                f"{now['option']} must hold what it held when this run began; got other contents at {path} "
                f"({now['sha'][:8]}, was {before[path]['sha'][:8]}); put the old ones back, or give this run a name of "
                "its own (--trainer.logger.version)"
            )
    return ""


def write_inputs(folder: Path, today: Mapping[str, Mapping[str, str]]) -> None:
    replace_file(folder / RECORD, json.dumps(today, indent=1) + "\n")
