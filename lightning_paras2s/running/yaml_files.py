"""A YAML file of options: one mapping, in which each thing is said once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lightning_paras2s.errors import UserError

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Once(Loader):
    """Refuses a mapping with a key twice, of which YAML's loaders take the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first, last, seen = node.start_mark.index, node.end_mark.index, set()
        for key, _ in node.value:  # what a merge brings (<<) stands elsewhere, and may come again
            if isinstance(key, yaml.ScalarNode) and first <= key.start_mark.index < last:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: str) -> dict[str, Any]:
    try:
        found = yaml.load(Path(path).read_text(encoding="utf-8"), Once)  # noqa: S506  a safe loader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = Path(path).read_text(encoding="utf-8").splitlines()[mark.line :][:1] if mark else []
        tab = "; indent with spaces, not with tabs" if any(one.lstrip(" ").startswith("\t") for one in line) else ""
        raise UserError(f"{path} must be YAML; got {' '.join(str(error).split())}{tab}") from None
    if found is not None and not isinstance(found, dict):
        raise UserError(f"{path} must hold options (name: value); got {type(found).__name__}")
    return found or {}
