"""A trainer's options that this machine or FSDP2 cannot serve are refused before anything is built."""

from __future__ import annotations

import os
from pathlib import Path

import lightning as L
import pytest
import yaml
from lightning.pytorch.strategies import ModelParallelStrategy
from toys import ToyLM, ToyScorer

from lightning_paras2s.cli import main
from lightning_paras2s.errors import UserError
from lightning_paras2s.modules.sample import SampleModule
from lightning_paras2s.running import fit
from lightning_paras2s.running.preflight import (
    Launched,
    check_run,
    check_sizes,
    check_trainer,
    device_count,
    launched,
)

ROOT = Path(__file__).parents[1]
FSDP2 = yaml.safe_load((ROOT / "configs/trainer/fsdp2_8gpu.yaml").read_text())["trainer"]
CPU = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}


def fsdp2(data_parallel_size: int | str = 8, tensor_parallel_size: int | str = 1, **changes) -> dict:
    """trainer/fsdp2_8gpu.yaml, changed."""
    sizes = {"data_parallel_size": data_parallel_size, "tensor_parallel_size": tensor_parallel_size}
    return {"num_nodes": 1, **FSDP2, "strategy": {**FSDP2["strategy"], "init_args": sizes}, **changes}


@pytest.mark.parametrize(
    "trainer, gpus, started",
    [
        (CPU, 0, None),
        ({**CPU, "accelerator": "auto", "devices": "auto"}, 0, None),
        ({**CPU, "accelerator": "gpu", "devices": -1, "strategy": "ddp"}, 2, None),
        ({"num_nodes": 1, **FSDP2}, 8, None),
        ({"num_nodes": 1, **FSDP2}, 8, Launched("--nproc-per-node", 8, 1)),
        (fsdp2(16, num_nodes=2), 8, Launched("--ntasks-per-node", 8, 2)),
        (fsdp2(2, devices=2, accelerator="cpu"), 0, None),
    ],
)
def test_trainer_is_taken_when_the_machine_serves_it(trainer, gpus, started):
    check_trainer(trainer, gpus, started)


@pytest.mark.parametrize(
    "trainer, gpus, started, must",
    [
        ({**CPU, "accelerator": "gpu"}, 0, None, "trainer.accelerator gpu with 1 devices needs CUDA GPUs; got none"),
        (fsdp2(), 0, None, "needs CUDA GPUs; got none"),
        ({**CPU, "accelerator": "auto", "devices": 8}, 0, None, "auto with 8 devices needs CUDA GPUs; got none"),
        (fsdp2(), 4, None, "devices must be at most the GPUs of this machine; got 8 with 4"),
        (fsdp2(), 8, Launched("--nproc-per-node", 4, 1), "got 8 and 1 with --nproc-per-node 4 on 1; make them equal"),
        (fsdp2(), 8, Launched("--ntasks-per-node", 8, 2), "got 8 and 1 with --ntasks-per-node 8 on 2; make them equal"),
        (
            fsdp2("auto", "auto"),
            8,
            None,
            "number of all processes, 8, and its tensor_parallel_size 1; got auto",
        ),
        (
            fsdp2(8, 1, num_nodes=2),
            8,
            None,
            "number of all processes, 16, and its tensor_parallel_size 1; got 8 and 1",
        ),
        (fsdp2(4, 2), 8, None, "got 4 and 2"),
        ({**CPU, "strategy": "fsdp"}, 0, None, "must not be FSDP1, which fails in manual optimization; got fsdp"),
        (
            {**CPU, "strategy": {"class_path": "lightning.pytorch.strategies.FSDPStrategy", "init_args": {}}},
            8,
            None,
            "got FSDPStrategy; use --config trainer/fsdp2_8gpu.yaml",
        ),
    ],
)
def test_trainer_is_refused_when_it_would_fail_late_or_in_silence(trainer, gpus, started, must):
    with pytest.raises(UserError, match="; ") as refused:
        check_trainer(trainer, gpus, started)
    assert must in str(refused.value) and "\n" not in str(refused.value)


def test_processes_that_were_started_are_read_as_lightning_does():
    """torchrun inside a SLURM job is torchrun; a shell that SLURM gave starts nothing."""
    assert launched({}) is None
    elastic = {"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "16"}
    slurm = {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "grpo"}
    assert launched(elastic | slurm) == ("--nproc-per-node", 8, 2)
    assert launched(slurm) == ("--ntasks-per-node", 4, 2)
    assert launched({"SLURM_NTASKS": "1"}) == ("--ntasks-per-node", 1, 1)
    assert launched(slurm | {"SLURM_JOB_NAME": "interactive"}) is None
    with pytest.raises(UserError, match="got 8 tasks; set --ntasks-per-node"):
        launched({"SLURM_NTASKS": "8"})


@pytest.mark.parametrize(
    "devices, count", [(8, 8), ("8", 8), ([0, 2], 2), ("0,2", 2), ("0,", 1), ("auto", 4), (-1, 4), ("-1", 4)]
)
def test_devices_are_counted_as_lightning_reads_them(devices, count):
    assert device_count(devices, gpus=4) == count


@pytest.mark.parametrize(
    "options, gpus, must",
    [
        (["--config", "trainer/fsdp2_8gpu.yaml"], 0, "got none"),
        (["--config", "trainer/fsdp2_8gpu.yaml"], 4, "got 8 with 4"),
        (["--trainer.strategy", "FSDPStrategy"], 0, "must not be FSDP1"),
    ],
)
def test_grpo_is_refused_in_one_line_when_its_trainer_is(options, gpus, must, monkeypatch, capsys):
    """Through the command line; nothing is built and no folder made."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(fit, "visible_gpus", lambda: gpus)
    before = set(os.listdir("runs")) if Path("runs").is_dir() else set()
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "grpo.yaml", *options])
    errors = [line for line in capsys.readouterr().err.splitlines() if "Seed set" not in line]
    assert stop.value.code == 2 and len(errors) == 1 and errors[0].startswith("error: ") and must in errors[0]
    assert before == (set(os.listdir("runs")) if Path("runs").is_dir() else set())


@pytest.mark.parametrize("name", ["batch_size", "val_batch_size"])
def test_batch_of_nothing_is_refused_by_its_own_name(name: str) -> None:
    check_sizes({"data": {"init_args": {name: 1}}, "trainer": {}})
    with pytest.raises(UserError, match=f"a batch size must be at least 1; got 0; set data.{name}$"):
        check_sizes({"data": {"init_args": {name: 0}}, "trainer": {}})


@pytest.mark.parametrize("name", ["minibatches", "rollout_parts"])
def test_more_parts_than_a_batch_has_queries_are_refused(name: str) -> None:
    """There would be fewer, in silence; where dropped queries shrink a minibatch, nothing was asked for."""
    data = {"init_args": {"batch_size": 2}}
    check_sizes({"data": data, "trainer": {}, "model": {"init_args": {name: 2}}})
    with pytest.raises(UserError, match=f"model.{name} must be at most data.batch_size.*; got 3 of 2; lower it"):
        check_sizes({"data": data, "trainer": {}, "model": {"init_args": {name: 3}}})


def test_samples_of_a_sharded_policy_are_refused() -> None:
    """One rank's last batch may have no partner, and the collective that gathers weights would wait for ever."""
    module = SampleModule(lambda: None, lambda: None, "data")
    options = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    check_run("predict", module, L.Trainer(**options, strategy="ddp"))
    with pytest.raises(UserError, match="predict must not shard the policy.*; got ModelParallelStrategy"):
        check_run("predict", module, L.Trainer(**options, strategy=ModelParallelStrategy(1, 1)))


@pytest.mark.parametrize("model", [ToyLM, ToyScorer])
def test_a_small_model_tells_that_it_is_not_sharded(model) -> None:
    with pytest.raises(UserError, match=f"{model.__name__} is too small to be sharded; .*; use DDP or one process"):
        model().shard(None)
