"""How much a stage takes: responses that it samples or learns from, the unit in which its time is estimated."""

from __future__ import annotations

import re
from typing import Any

from lightning_paras2s.errors import UserError
from lightning_paras2s.running.named import options_of_class


def responses_planned(stage: str, tree: dict[str, Any]) -> int:
    """Of a whole stage.

    Raises:
        UserError: how long it trains cannot be told before.
    """
    trainer = tree.get("trainer", {})
    steps, epochs = (trainer.get(key) or -1 for key in ("max_steps", "max_epochs"))
    if steps < 0 or epochs > 0:
        raise UserError(
            f"a stage must end by trainer.max_steps alone to be priced; got max_steps {steps} and max_epochs {epochs} "
            f"of {stage}; set --trainer.max_steps, and --trainer.max_epochs -1"
        )
    return steps // updates_of(tree) * responses_of(tree)


def responses_of(tree: dict[str, Any]) -> int:
    """Responses that all ranks learn from before a line is logged: a batch, or as many as gradients are accumulated
    over. Ranks that are not counted in the config (`auto`) are one."""
    trainer = tree.get("trainer", {})
    ranks = devices_of(trainer.get("devices")) * int(trainer.get("num_nodes") or 1)
    return batch_of(tree) * ranks * int(trainer.get("accumulate_grad_batches") or 1)


def batch_of(tree: dict[str, Any]) -> int:
    """Responses in a batch of one rank."""
    model = tree.get("model", {})
    group = setting(model, "group_size") if str(model.get("class_path")).endswith("GRPOModule") else 1
    return setting(tree.get("data", {}), "batch_size") * group


def updates_of(tree: dict[str, Any]) -> int:
    """Optimizer steps that a batch serves."""
    return setting(tree.get("model", {}), "mu") * setting(tree.get("model", {}), "minibatches")


def setting(part: dict[str, Any], name: str) -> int:
    """A class's option: as its config says, else its own default; 1 of a class that has none."""
    options = options_of_class(str(part.get("class_path"))) or ()
    default = next((option.default for option in options if option.name == name and option.default), 1)
    return int(part.get("init_args", {}).get(name, default))


def devices_of(devices: Any) -> int:
    """As Lightning reads them: a number, or their list."""
    if isinstance(devices, list):
        return len(devices)
    number = re.fullmatch(r"\d+", str(devices))
    return max(int(number[0]), 1) if number else str(devices).count(",") + 1
