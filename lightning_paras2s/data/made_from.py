"""What a folder of judged samples was made from: answers of two policies, or scores of two judges, don't mix."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from lightning_paras2s.data.swapped import Draw
from lightning_paras2s.data.written import WrittenAnswers
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.processor import Processor
from lightning_paras2s.models.sharding import whole
from lightning_paras2s.models.speech_lm import Sampling
from lightning_paras2s.running.logs import json_text, replace_file, say
from lightning_paras2s.running.origins import contradictions
from lightning_paras2s.running.parts import settings_sha

FILE = "made_from.json"
EDGE = 1 << 14  # numbers of each end of a tensor that its hash covers: 7 G weights need not be read through


@dataclass(frozen=True)
class Recipe:
    """How samples are drawn and judged, beside the policy, its processor and the reward.

    Attributes:
        samples: sampled responses a query.
        sampling: their temperatures and longest response.
        seed: with a query's id decides its samples.
        others: each response is also judged as an answer to so many other queries of its batch (`swapped`), or the
            scorer could learn which answers are good, and not for whom.
        written: answers of demonstrations beside the sampled ones, or the scorer would never hear a good answer of a
            kind that the policy doesn't give.
        keep_tokens: write the sampled answers' tokens, too, to `completions.jsonl`.
        draw: how the other queries are drawn, see `swapped`.
    """

    samples: int
    sampling: Sampling
    seed: int = 0
    others: int = 0
    written: WrittenAnswers | None = None
    keep_tokens: bool = False
    draw: Draw = "repeated"


def made_from(policy: nn.Module, processor: Processor, reward_sha: str, recipe: Recipe) -> dict[str, Any]:
    """All that a query's samples and scores depend on. Which queries there are does not count: more may follow."""
    options = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    sampling, written = options.pop("sampling"), options.pop("written")
    return {
        "policy": policy_sha(policy),
        "processor": processor.config_sha,
        "reward": reward_sha,
        "written": "" if written is None else settings_sha(written),
        **{f"sampling.{name}": value for name, value in asdict(sampling).items()},
        **options,
    }


def claim(folder: Path, made: dict[str, Any], begun: bool, write: bool = True) -> None:
    """Keep what a folder is made from; one that has answers goes on with the same alone. An earlier version's folder is
    taken at its word where it names nothing.

    Args:
        begun: whether it has answers.
        write: of several processes one writes.

    Raises:
        UserError: it was made from something else.
    """
    path, made = folder / FILE, json.loads(json_text(made))
    if path.is_file():
        was = json.loads(path.read_text(encoding="utf-8"))
        if begun and (other := contradictions(was, made)):
            raise UserError(
                f"all answers in {folder} must be made from the same; got {told(other, was, made)}; set what it was "
                "made from, or choose another model.folder"
            )
        if was == made:
            return
    elif begun and write:
        say(f"{folder}: what its answers were made from is not recorded; they are kept, as if made as now asked")
    if write:
        replace_file(path, json_text(made))


def told(names: Iterable[str], was: dict[str, Any], made: dict[str, Any]) -> str:
    """ "another policy, samples 8 (was 2)"."""
    hashed = ("policy", "processor", "reward", "written")
    return ", ".join(
        f"another {name}" if name in hashed else f"{name} {made.get(name)} (was {was.get(name)})" for name in names
    )


def policy_sha(policy: nn.Module) -> str:
    """Short hash of a model's weights, by both ends of each; the same for a model that is sharded. All ranks ask."""
    found = hashlib.sha256(type(policy).__name__.encode())
    for name, tensor in policy.state_dict().items():
        flat = whole(tensor).reshape(-1)
        found.update(f"{name} {len(flat)}".encode())
        for end in (flat[:EDGE], flat[-EDGE:]):
            found.update(end.float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]
