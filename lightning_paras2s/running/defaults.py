"""What a run's config leaves open: its seeds follow `seed_everything`, and it has a folder whatever loggers it has."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from jsonargparse import Namespace

from lightning_paras2s.errors import UserError

SEEDS = ("seed", "rollout_seed")
OWN_LOGGER = "lightning_paras2s.running.runs.RunLogger"

# of Lightning's loggers: the parser would tell a missing one in twenty lines
PACKAGES = {"WandbLogger": "wandb", "CometLogger": "comet_ml", "MLFlowLogger": "mlflow", "NeptuneLogger": "neptune"}


def fill(config: Namespace) -> Namespace:
    """A stage's config with what it leaves open; the one that is kept with the run still leaves it open."""
    filled = config.clone()
    follow_seed(filled)
    check_delay(filled)
    filled.trainer.logger = loggers_of(filled.trainer.logger, filled.model.class_path if filled.model else "")
    return filled


def follow_seed(config: Namespace) -> None:
    """Seeds of the model and the data that are null become `seed_everything`, so that one seed decides order, rollouts,
    first weights and reward; a seed that is given pins its part.
    """
    for part in (config.get("model"), config.get("data")):
        options = part.get("init_args") if part else None
        for name in SEEDS:
            if options is not None and name in options and options[name] is None:
                options[name] = int(config.seed_everything)


def pinned_seeds(config: Namespace) -> str:
    """Names the seeds of the model and the data that are others than `seed_everything`; "" where all follow."""
    parts = {part: (config.get(part) or Namespace()).get("init_args") or {} for part in ("model", "data")}
    given = [(f"{part}.{name}", found.get(name)) for part, found in parts.items() for name in SEEDS]
    other = [f"{name} {seed}" for name, seed in given if seed not in (None, int(config.seed_everything))]
    if not other:
        return ""
    return (
        f"seeds in force: seed_everything {config.seed_everything}, but {', '.join(other)}, which seed_everything does "
        "not move; set each of them, too, for another draw"
    )


def check_delay(config: Namespace) -> None:
    """
    Raises:
        UserError: the demonstrations' audio would trail their text by other steps than the policy's.
    """
    data, model = (part.get("init_args") if part else None for part in (config.get("data"), config.get("model")))
    parts = (data and data.get("processor"), model and model.get("policy"))
    given = [(part.get("init_args") or {}).get("delay") if isinstance(part, Namespace) else None for part in parts]
    if None not in given and given[0] != given[1]:
        raise UserError(
            f"data.processor.delay must be the policy's, {given[1]}; got {given[0]}; set model.policy.delay and it to "
            "the steps by which audio trails text"
        )


def loggers_of(asked: Any, model: str) -> list[Namespace]:
    """The run's own logger first, then the others that were asked for: the first one's folder is the run's.

    Args:
        asked: `trainer.logger`: none, one or several.
        model: the class that names a run which names itself nowhere (`GRPOModule`: `runs/grpo/`).

    Raises:
        UserError: the package of one is missing.
    """
    others = asked if isinstance(asked, list) else [asked] if isinstance(asked, Namespace) else []
    for logger in others:
        package = PACKAGES.get(kind := logger.class_path.rpartition(".")[2])
        if package is not None and find_spec(package) is None:
            raise UserError(
                f"{kind} needs the package {package}, which is missing; install it, or leave the logger out"
            )
    own = [logger for logger in others if logger.class_path.rpartition(".")[2] == OWN_LOGGER.rpartition(".")[2]]
    if own:
        return own + [logger for logger in others if logger not in own]
    name = model.rpartition(".")[2].removesuffix("Module").lower() or "default"
    options = Namespace(save_dir="runs", name=name, version=None)
    return [Namespace(class_path=OWN_LOGGER, init_args=options), *others]
