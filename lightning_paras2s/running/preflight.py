"""What a trainer's config must hold for this machine and for FSDP2, checked before anything is built."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_paras2s.errors import UserError, check_batch_size

GPU = ("gpu", "cuda")
PRECISIONS = ("32-true", "bf16-mixed", "32", "bf16")
LIMITS = {"fit": "train", "validate": "val", "test": "test", "predict": "predict"}  # limit_..._batches of each command
STEPS = {"fit": "training_step", "validate": "validation_step", "test": "test_step", "predict": "predict_step"}
USE_FSDP2 = "use --config trainer/fsdp2_8gpu.yaml (FSDP2)"


class Launched(NamedTuple):
    """What torchrun or srun started: the option that says how many processes a node, their number, and of the nodes."""

    option: str
    processes: int
    nodes: int


def check_sizes(config: Mapping[str, Any], command: str = "fit") -> None:
    """Before anything is built, which takes long.

    Raises:
        UserError: a batch, a part of one, or a run, with nothing in it.
    """
    data, trainer = (config.get("data") or {}).get("init_args") or {}, config["trainer"]
    for name in ("batch_size", "val_batch_size"):
        if data.get(name) is not None:
            check_batch_size(data[name], name)
    model = (config.get("model") or {}).get("init_args") or {}
    for name in ("minibatches", "rollout_parts"):
        if (parts := model.get(name)) is not None and parts > data.get("batch_size", parts):
            raise UserError(
                f"model.{name} must be at most data.batch_size, the queries that a process has to cut; got {parts} of "
                f"{data['batch_size']}; lower it, or raise data.batch_size"
            )
    for name in ("max_steps", "max_epochs"):
        if trainer.get(name) == 0:
            raise UserError(f"trainer.{name} must be at least 1, or -1 for no limit; got 0; --check runs nothing")
    limit = f"limit_{LIMITS[command]}_batches"
    if trainer.get(limit) == 0:
        raise UserError(
            f"trainer.{limit} must be above 0, or nothing runs; got {trainer[limit]}; leave it out for all batches "
            "(--check runs nothing)"
        )
    if (most := trainer.get("max_time")) is not None and not re.search("[1-9]", str(most)):
        raise UserError(f"trainer.max_time must be above 0, or nothing trains; got {most}; leave it out for no limit")


def check_trainer(trainer: Mapping[str, Any], gpus: int, started: Launched | None) -> None:
    """Refuse a trainer's options that would fail late, or train something else in silence.

    Args:
        trainer: `accelerator`, `devices`, `num_nodes` and `strategy` as in a config.
        gpus: that this machine has.
        started: the processes that there are already, None where Lightning starts them.

    Raises:
        UserError: no GPU where one is asked for, too few, other processes or nodes than were started, a mesh that is
            not all processes' data parallelism, or FSDP1.
    """
    check_strategy(trainer)
    check_precision(trainer)
    if trainer.get("enable_checkpointing") is False:
        raise UserError(
            "trainer.enable_checkpointing must not be false, for a run resumes from its checkpoints; got false; "
            "set --checkpoint.every_n_batches 0 for one at the end alone"
        )
    if trainer.get("barebones"):
        raise UserError("trainer.barebones must be false, or no checkpoints are kept; got true; leave it out")
    if trainer.get("overfit_batches"):
        raise UserError(
            f"trainer.overfit_batches must be 0, for an epoch's order is its own; got {trainer['overfit_batches']}; "
            "train on a manifest of those queries"
        )
    if trainer.get("reload_dataloaders_every_n_epochs"):
        raise UserError(
            "trainer.reload_dataloaders_every_n_epochs must be 0, for a loader made anew begins with the first epoch's "
            f"order; got {trainer['reload_dataloaders_every_n_epochs']}; leave it out"
        )
    devices = device_count(trainer["devices"], gpus)
    if trainer["accelerator"] in GPU or (trainer["accelerator"] == "auto" and devices > 1):
        if not gpus:
            raise UserError(
                f"trainer.accelerator {trainer['accelerator']} with {devices} devices needs CUDA GPUs; got none (torch "
                f"{torch.__version__}); run where there are, or set --trainer.accelerator cpu --trainer.devices 1"
            )
        if devices > gpus:
            raise UserError(
                f"trainer.devices must be at most the GPUs of this machine; got {trainer['devices']} with {gpus}; "
                f"set --trainer.devices {gpus} and, with FSDP2, data_parallel_size to the number of all processes"
            )
    if trainer["accelerator"] == "cpu" and devices > cores():
        raise UserError(
            f"trainer.devices must be at most the cores of this machine, {cores()}; got {devices}; each is a process"
        )
    nodes = trainer["num_nodes"] or 1
    if started is not None and (devices, nodes) != (started.processes, started.nodes):
        raise UserError(
            "trainer.devices and trainer.num_nodes must be the processes on each node and the nodes that were started; "
            f"got {devices} and {nodes} with {started.option} {started.processes} on {started.nodes}; make them equal"
        )
    check_mesh(trainer, devices * nodes)


def check_card(tree: dict[str, Any], has: float | None) -> str:
    """Refuse a card that can't hold what a stage of Qwen2.5-Omni always keeps, before its weights are read.

    Args:
        tree: the run's config.
        has: bytes of the one card that trains; None = there is no such.

    Returns:
        A line where the card holds that, but not what `plan` adds for activations; else "".

    Raises:
        UserError: with the plan's figure.
    """
    from lightning_paras2s.running.gpus import GPUS
    from lightning_paras2s.running.plan import is_omni
    from lightning_paras2s.running.plan_omni import Terms, plan_stage

    if has is None or not is_omni(tree):
        return ""
    made = plan_stage(tree, Terms(replace(GPUS["a100"], memory=has)))
    kept, peak = sum(made.memory.kept.values()) / 1e9, made.memory.peak / 1e9
    figure = f"{peak:.1f} GB by `plan`, {kept:.1f} of them always; got {has / 1e9:.1f}"
    help_ = "an overlay of onegpu/ for this card, a smaller model, dtype: bfloat16 or a lower lora_rank"
    if kept * 1e9 > has:
        raise UserError(f"the card must hold {made.stage} of Qwen2.5-Omni {made.model}: {figure}; take {help_}")
    return f"the card may be too small: {figure}; if memory does not suffice, take {help_}" if peak * 1e9 > has else ""


def card_bytes(trainer: Mapping[str, Any]) -> float | None:
    """Memory of the card that trains; None without one, or with several."""
    if not torch.cuda.is_available() or trainer["accelerator"] == "cpu" or (trainer["num_nodes"] or 1) > 1:
        return None
    if device_count(trainer["devices"], torch.cuda.device_count()) > 1:
        return None
    return float(torch.cuda.get_device_properties(0).total_memory)


def check_strategy(trainer: Mapping[str, Any]) -> None:
    """FSDP1 fails in manual optimization (Lightning #19626, after a whole rollout) and cannot run on CPU."""
    name = strategy_name(trainer)
    if any(word in name for word in ("spawn", "fork", "notebook")):
        raise UserError(
            f"trainer.strategy must start its processes anew, as ddp does; got {name}; set --trainer.strategy ddp"
        )
    if name.startswith("fsdp") or name.endswith("FSDPStrategy"):
        raise UserError(
            f"trainer.strategy must not be FSDP1, which fails in manual optimization; got {name}; {USE_FSDP2}"
        )


def check_precision(trainer: Mapping[str, Any]) -> None:
    """Weights stay float32 (a step of 1e-5 is lost in 16 bits), and no loss is scaled: `GRPOModule` steps by itself."""
    asked = trainer.get("precision")
    if asked is not None and str(asked) not in PRECISIONS:
        raise UserError(
            f"trainer.precision must be {' or '.join(PRECISIONS[:2])}; got {asked}; for weights in bfloat16 set the "
            "policy's dtype"
        )


def check_run(command: str, module: LightningModule, trainer: Trainer) -> None:
    """Refuse what a stage cannot do, or would do otherwise than asked.

    Raises:
        UserError: no such step, samples of a sharded policy, Lightning's clipping beside the stage's own, or
            accumulation in RL.
    """
    name = type(module).__name__
    step = STEPS[command]
    if step not in ("training_step", "validation_step") and not is_overridden(step, module, LightningModule):
        has = [c for c, s in STEPS.items() if is_overridden(s, module, LightningModule)]
        raise UserError(f"{name} can {', '.join(has)}; got {command}; choose one of those")
    if command == "predict" and isinstance(trainer.strategy, ModelParallelStrategy):
        raise UserError(
            "predict must not shard the policy: ranks have different numbers of batches, and one that has none left "
            "would be waited for; got ModelParallelStrategy (FSDP2); set --trainer.strategy ddp, or take one device"
        )
    if command != "fit":
        return
    if not is_overridden(step, module, LightningModule):
        raise UserError(f"{name} must train to be fitted; it does not; use `predict`")
    own = is_overridden("configure_gradient_clipping", module, LightningModule) or not module.automatic_optimization
    if trainer.gradient_clip_val is not None and own:
        raise UserError(
            f"{name} clips its gradients itself; got trainer.gradient_clip_val {trainer.gradient_clip_val}; "
            "set model.max_grad_norm"
        )
    if trainer.accumulate_grad_batches > 1 and not module.automatic_optimization:
        raise UserError(
            f"{name} makes its own optimizer steps; got trainer.accumulate_grad_batches "
            f"{trainer.accumulate_grad_batches}; raise data.batch_size, and cut it by model.micro_batch_tokens"
        )


def check_mesh(trainer: Mapping[str, Any], processes: int) -> None:
    """Lightning's default mesh is tensor parallelism over all GPUs of a node: each rank would hold all weights and
    never hear of the others' gradients.
    """
    if strategy_name(trainer) != "ModelParallelStrategy":
        return
    sizes = trainer["strategy"]["init_args"]
    got = (sizes["data_parallel_size"], sizes["tensor_parallel_size"])
    if got != (processes, 1):
        raise UserError(
            f"the strategy's data_parallel_size must be the number of all processes, {processes}, and its "
            f"tensor_parallel_size 1; got {got[0]} and {got[1]}; set both (the defaults are another mesh)"
        )


def strategy_name(trainer: Mapping[str, Any]) -> str:
    """`ddp`, `ModelParallelStrategy`, ...: a strategy's name or its class's."""
    strategy = trainer["strategy"]
    return strategy if isinstance(strategy, str) else strategy["class_path"].rpartition(".")[2]


def device_count(devices: int | str | list[int], gpus: int) -> int:
    """How many devices of a node Lightning reads from 8, "8", -1, "auto", "0,1" or [0, 1]."""
    if isinstance(devices, list):
        return len(devices)
    if str(devices) in ("auto", "-1"):
        return max(1, gpus)
    return len([d for d in str(devices).split(",") if d]) if "," in str(devices) else int(devices)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else int(torch.backends.mps.is_available())


def launched(environment: Mapping[str, str]) -> Launched | None:
    """What torchrun's or srun's variables say, in this order, as Lightning reads them.

    Raises:
        UserError: tasks without --ntasks-per-node, of which Lightning cannot tell where they are.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        here = int(environment["LOCAL_WORLD_SIZE"])
        return Launched("--nproc-per-node", here, int(environment["WORLD_SIZE"]) // here)
    if "SLURM_NTASKS" not in environment or environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    tasks = int(environment["SLURM_NTASKS"])
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in environment:
        raise UserError(
            f"SLURM's job must say how many tasks a node has; got {tasks} tasks; set --ntasks-per-node, one task a GPU"
        )
    here, nodes = environment.get("SLURM_NTASKS_PER_NODE", "1"), environment.get("SLURM_NNODES", "1")
    return Launched("--ntasks-per-node", int(here), int(nodes))
