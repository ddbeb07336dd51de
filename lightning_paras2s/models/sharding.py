"""FSDP2 for policies and scorers: blocks sharded one by one, gathered once for a whole rollout.

Gathering each block at each decode step would cost ten times the step itself, and would need all ranks to decode in
lock-step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils._pytree import register_dataclass

from lightning_paras2s.errors import UserError
from lightning_paras2s.models.speech_lm import Logps

# FSDP2 finds the tensors that a backward pass begins with by walking what a forward method returns
register_dataclass(Logps)


def shard_blocks(
    policy: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, dtype: torch.dtype, methods: tuple[str, ...]
) -> None:
    """Shard each block, then the rest of `policy`, in place. Weights are gathered in `dtype`, gradients summed in
    float32. `methods` are those that run the network beside `forward`.

    A model that is frozen whole (a reference) is kept in `dtype` too: gathered, it is the same bits.

    Raises:
        UserError: the mesh leaves processes out. On Lightning's default mesh each would train alone, in silence.
    """
    if mesh.size() != dist.get_world_size():
        raise UserError(
            f"weights must be sharded over all {dist.get_world_size()} processes; got a mesh of {mesh.size()}; set the "
            "strategy's data_parallel_size to the number of processes and tensor_parallel_size to 1"
        )
    if frozen := not trains(policy):
        for parameter in policy.parameters():  # not its buffers: the policy keeps the type of its own
            parameter.data = parameter.data.to(dtype)
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=precision)
    # what trains keeps the rest whole from its forward to its backward pass, as FSDP2 has it; here none comes
    fully_shard(policy, mesh=mesh, mp_policy=precision, reshard_after_forward=True if frozen else None)
    for name in methods:
        register_fsdp_forward_method(policy, name)


def trains(model: nn.Module) -> bool:
    return any(p.requires_grad for p in model.parameters())


def whole(parameter: nn.Parameter) -> Tensor:
    """The full tensor, gathered from all ranks if it is sharded."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.detach()


def sync_gradients(model: nn.Module, sync: bool) -> None:
    """Whether the next backward pass sums gradients over the ranks. Until one does they gather on each rank, whole and
    in float32, 4 bytes a weight. Nothing to do on one process.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(sync)
        model.set_is_last_backward(sync)


@contextlib.contextmanager
def unsharded(policy: nn.Module) -> Iterator[None]:
    """Hold all weights whole; ranks may then run any number of passes without meeting. Nothing to do on one process."""
    parts = [m for m in policy.modules() if isinstance(m, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not policy or not trains(policy), recurse=False)
            part.reshard()
