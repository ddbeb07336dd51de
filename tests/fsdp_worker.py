"""GRPO on tiny Kimi-Audio in one process or several, each forked from a server that has imported the heavy packages."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from toys import ToyProcessor

from lightning_paras2s.data.dual_stream import DualStreamBatch
from lightning_paras2s.judging.rewards import Reward
from lightning_paras2s.models.speech_lm import Prompt, Sampling
from lightning_paras2s.modules.grpo import GRPOModule
from lightning_paras2s.running.checkpoints import RunCheckpoint, last_checkpoint
from lightning_paras2s.running.loaders import ResumableLoader
from lightning_paras2s.running.ranks import EndTogether
from lightning_paras2s.running.runs import RunLogger, StepSeed
from lightning_paras2s.speaking.codec import speak

HEAVY = ("lightning_paras2s.running.fit", "transformers.models.qwen2.modeling_qwen2", "pytest", "peft")
HEAVY += ("torch.distributed.checkpoint.state_dict", "torch.utils.tensorboard", "lightning.pytorch.strategies")


@dataclass(frozen=True)
class Scene:
    """What a run does; -1 = no rank, no batch.

    Attributes:
        killed_rank: gets SIGKILL in batch `killed_at`, or, where that is -1, at its second checkpoint when its part
            of it is written.
        failing_rank: its reward raises in the second batch.
        noisy: the loader adds noise from the process's own generator.
        late_rank: its reward takes `late_seconds` for the second batch it is asked about.
        timeout_seconds: of the process group.
    """

    name: str
    epochs: int = 1
    options: tuple[tuple[str, object], ...] = ()
    lora_rank: int = 0
    default_mesh: bool = False
    killed_rank: int = -1
    killed_at: int = -1
    failing_rank: int = -1
    noisy: bool = False
    late_rank: int = -1
    late_seconds: float = 0.0
    timeout_seconds: float = 1800.0

    def late(self, rank: int) -> float:
        return self.late_seconds if rank == self.late_rank else 0.0

    def strategy(self, mesh: tuple):
        from lightning.pytorch.strategies import ModelParallelStrategy

        return ModelParallelStrategy(*mesh, timeout=timedelta(seconds=self.timeout_seconds))


class Letters(Reward):
    """The share of low text ids; NaN where the prompt has 9 or 10 tokens: rank 1's half of the first batch."""

    needs_audio = False

    def __init__(self, fails: bool, late_seconds: float = 0.0) -> None:
        self.fails, self.late_seconds, self.calls, self.threads = fails, late_seconds, 0, set()

    def score(self, batch, responses):
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        if self.fails and self.calls == 2:
            raise RuntimeError("the reward broke down on purpose")
        if self.calls == 2:
            time.sleep(self.late_seconds)
        found = torch.tensor([sum(i < 128 for i in r.text_ids) / len(r.text_ids) for r in responses])
        length = batch.prompt.mask.sum(1).repeat_interleave(len(responses) // len(batch))
        return torch.where((length == 9) | (length == 10), torch.nan, found)


class Silent(ToyProcessor):
    """It says nothing."""

    def speak(self, completion, decode_audio=True):
        return speak(completion, None, lambda ids: "")


class Prompts(L.LightningDataModule):
    """Four queries a global batch, two batches an epoch; each rank pads to its own longest."""

    processor = Silent()

    def __init__(self, noisy: bool) -> None:
        super().__init__()
        self.noisy = noisy

    def train_dataloader(self):
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return ResumableLoader(range(8), self.collate, 4 // world, 0, False, rank=rank, world_size=world)

    def collate(self, rows):
        from test_kimi_audio import mixed_prompt

        prompt = mixed_prompt(8).rows(torch.tensor(rows))
        n = int(prompt.mask.sum(1).max())
        noise = torch.randn(len(rows), n, 1) * 0.1 if self.noisy else 0.0
        features = (prompt.features[:, -n:] + noise) * prompt.features_mask[:, -n:, None]
        return DualStreamBatch(
            Prompt(prompt.tokens[..., -n:], prompt.mask[:, -n:], features, prompt.features_mask[:, -n:])
        )

    def transfer_batch_to_device(self, batch, device, index):
        return batch.to(device)


class Kill(L.Callback):
    """`kill -9` in the middle of a batch, between backward pass and optimizer step."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_before_optimizer_step(self, trainer, *args):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_while_saving() -> None:
    from lightning.pytorch.strategies import model_parallel

    save, saved = model_parallel._distributed_checkpoint_save, []

    def save_and_die(*args):
        save(*args)
        saved.append(True)
        if len(saved) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    model_parallel._distributed_checkpoint_save = save_and_die


def count_collectives(module: GRPOModule) -> dict[str, list[int]]:
    """All-gathers of each rollout and reduce-scatters of each update."""
    counts, found = {"gather": 0, "scatter": 0}, {"rollout": [], "update": []}
    module.collective_threads = set()

    def counted(function, name):
        def call(*args, **kwargs):
            counts[name] += 1
            module.collective_threads.add(threading.current_thread().name)
            return function(*args, **kwargs)

        return call

    dist = torch.distributed
    # FSDP2 calls the first name of each pair up to torch 2.13, the second from 2.14 on
    for name in ("all_gather_into_tensor", "all_gather_single"):
        if hasattr(dist, name):
            setattr(dist, name, counted(getattr(dist, name), "gather"))
    for name in ("reduce_scatter_tensor", "reduce_scatter_single"):
        if hasattr(dist, name):
            setattr(dist, name, counted(getattr(dist, name), "scatter"))

    def watched(method, name, kind):
        def call(*args):
            before = counts[name]
            result = method(*args)
            found[kind].append(counts[name] - before)
            return result

        return call

    module.rollout = watched(module.rollout, "gather", "rollout")
    module.update = watched(module.update, "scatter", "update")
    return found


def train(scene: Scene, folder: Path, rank: int, world_size: int) -> None:
    """Trains and writes what the rank ends with: whole weights, sampled tokens, metrics, counts of collectives."""
    from test_kimi_audio import tiny_kimi
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    from lightning_paras2s.models.sharding import whole

    L.seed_everything(0)
    module = GRPOModule(
        lambda: tiny_kimi(gather="float32", lora_rank=scene.lora_rank),
        lambda: Letters(scene.failing_rank == rank, scene.late(rank)),
        **{"group_size": 4, "lr": 3e-4, "sampling": Sampling(max_steps=8), **dict(scene.options)},
    )
    counts = count_collectives(module)
    callbacks = [StepSeed(0), EndTogether(every_seconds=0.2), RunCheckpoint(every_n_batches=3)]
    if scene.killed_rank == rank:
        callbacks.append(Kill(scene.killed_at))
        if scene.killed_at == -1:
            kill_while_saving()
    mesh = ("auto", "auto") if scene.default_mesh else (world_size, 1)
    logger = RunLogger(str(folder), "run", scene.name)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=world_size,
        strategy=scene.strategy(mesh) if world_size > 1 else "auto",
        max_epochs=scene.epochs,
        logger=logger,
        callbacks=callbacks,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Prompts(scene.noisy), ckpt_path=last_checkpoint(folder / "run" / scene.name))
    found = {"weights": {n: whole(p).detach() for n, p in module.policy.named_parameters()}}
    found["sharded"] = sum(isinstance(p, DTensor) for p in module.policy.parameters())
    found["parts"] = sum(isinstance(m, FSDPModule) for m in module.policy.modules())
    found["tokens"], found["counts"] = module.last_rollout[0].completion.tokens, counts
    found["threads"] = {"collectives": sorted(module.collective_threads), "scores": len(module.reward.threads)}
    found["metrics"] = {k: float(v) for k, v in trainer.callback_metrics.items()}
    torch.save(found, folder / f"{scene.name}-{world_size}-{rank}.pt")


class Held(Prompts):
    """Seven queries to validate on, in batches of four and of three."""

    def val_dataloader(self):
        return ResumableLoader(range(7), self.collate, 4, 0, False, False)


def validate(scene: Scene, folder: Path, rank: int, world_size: int) -> None:
    """Validates, and writes the metrics and the number of answers that this rank's reward was asked about."""
    from test_kimi_audio import tiny_kimi

    L.seed_everything(0)
    asked = []

    class Counted(Letters):
        def score(self, batch, responses):
            asked.append(len(responses))
            assert len(batch) == len(responses)
            return super().score(batch, responses)

    reward, sampling = Counted(False, scene.late(rank)), Sampling(max_steps=8)
    module = GRPOModule(lambda: tiny_kimi(gather="float32"), lambda: reward, sampling=sampling)
    strategy = scene.strategy((world_size, 1)) if world_size > 1 else "auto"
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder)
    ends = [EndTogether()]
    trainer = L.Trainer(accelerator="cpu", devices=world_size, strategy=strategy, callbacks=ends, **quiet)
    (found,) = trainer.validate(module, Held(False), verbose=False)
    torch.save((found, asked), folder / f"validated-{world_size}-{rank}.pt")


def first_adapters(base: str, folder: Path, rank: int, world_size: int) -> None:
    """Writes the adapters that GRPO of a policy read from `base` begins with, whole, to `folder`."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from lightning_paras2s.models.kimi.lm import KimiAudio
    from lightning_paras2s.models.sharding import whole

    L.seed_everything(0)
    module = GRPOModule(lambda: KimiAudio(base, lora_rank=8, gather="float32"), lambda: Letters(False), seed=3)
    if world_size > 1:
        dist.init_process_group("gloo")
        module._device_mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("data_parallel",))
    module.configure_model()
    found = {name: whole(p).detach() for name, p in module.policy.named_parameters() if ".lora_" in name}
    torch.save(found, folder / f"adapters-{world_size}-{rank}.pt")


def command(argv: list[str], folder: Path, rank: int, world_size: int) -> None:
    """`python -m lightning_paras2s ARGV`, as torchrun starts it."""
    from lightning_paras2s.cli import main

    os.chdir(folder)
    main(argv)


def torchrun(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    found = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "test", "MASTER_PORT": port}
    found |= {"WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1"}
    return {name: str(value) for name, value in found.items()}


def srun(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What srun tells a task of one node; Lightning takes address and port from the node list and the job's number."""
    found = {"PROCID": rank, "LOCALID": rank, "NODEID": 0, "NTASKS": world_size, "NTASKS_PER_NODE": world_size}
    found |= {"NNODES": 1, "NODELIST": "127.0.0.1", "JOB_ID": port - 15_000, "JOB_NAME": "grpo"}
    return {f"SLURM_{name}": str(value) for name, value in found.items()}


def child(target, arguments: tuple, folder: Path, rank: int, world_size: int, told: dict[str, str]) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}-{rank}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), stream)
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(300)  # says where it hangs
    if world_size > 1:
        os.environ |= told
        rank_zero_only.rank = rank
    try:
        target(*arguments, rank, world_size)
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def free_port() -> int:
    """Of those that Lightning's SLURM environment can choose: 15000 and the last four digits of the job's number."""
    while True:
        port = random.randrange(15_000, 25_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def start(
    target, arguments: tuple, folder: Path, world_size: int, launcher=torchrun, limit_seconds: float = 300.0
) -> list[int]:
    """Run `target(*arguments, rank, world_size)` in each process; -> exit codes. They speak to `folder`/err-RANK."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(HEAVY))
    port, job = free_port(), (target, arguments, folder)
    processes = [
        context.Process(target=child, args=(*job, rank, world_size, launcher(rank, world_size, port)))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(limit_seconds)
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
    assert not late, [said(folder, rank) for rank in range(world_size)]
    return [process.exitcode for process in processes]


def said(folder: Path, rank: int) -> str:
    return (folder / f"err-{rank}").read_text()


def weights_differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)
