"""`precision: auto` goes by the CPU's instructions, by what may be used of them, and by what is faster."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from toy_runs import run

from lightning_paras2s.running import precision
from lightning_paras2s.running.precision import best_precision, cpu_features, cpu_kind, mixed, settle
from lightning_paras2s.running.trainer import StageTrainer

ROOT = Path(__file__).parents[1]
AMX = "fpu sse2 avx2 avx512f avx512_bf16 amx_tile amx_bf16"


def info(folder: Path, flags: str) -> Path:
    """As Linux writes /proc/cpuinfo, a block a CPU."""
    path = folder / "cpuinfo"
    block = "processor\t: {}\nvendor_id\t: GenuineIntel\nflags\t\t: " + flags + "\nbogomips\t: 4600.00\n\n"
    path.write_text(block.format(0) + block.format(1))
    return path


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, ["avx2"]),
        ({"ONEDNN_MAX_CPU_ISA": "avx2"}, ["avx2"]),
        ({"ATEN_CPU_CAPABILITY": "avx2"}, ["avx2"]),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, ["avx2", "avx512f"]),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, ["avx2", "avx512f", "avx512_bf16"]),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]),
        ({"ONEDNN_MAX_CPU_ISA": "SSE41"}, []),
    ],
)
def test_features_that_variables_hide_do_not_count(tmp_path, environment, expected):
    assert cpu_features(environment, info(tmp_path, AMX)) == expected


def test_kind_of_cpu_names_8_bit_instructions_and_what_chooses_among_them(tmp_path):
    """A Skylake has AVX-512, but no VNNI; MKL's variable is one that `cpu_features` does not know; AMD has no MKL."""
    assert cpu_kind({}, info(tmp_path, "sse2 avx2 avx512f")) == "avx2, avx512f, MKL"
    path = info(tmp_path, "sse2 avx2 avx512f avx512_vnni")
    hidden = cpu_kind({"MKL_ENABLE_INSTRUCTIONS": "AVX2"}, path)
    assert hidden == "avx2, avx512f, avx512_vnni, MKL, MKL_ENABLE_INSTRUCTIONS=AVX2"
    path.write_text(path.read_text().replace("GenuineIntel", "AuthenticAMD"))
    assert cpu_kind({}, path) == "avx2, avx512f, avx512_vnni"


def test_features_are_none_where_the_system_does_not_say(tmp_path):
    assert cpu_features({}, tmp_path / "none") == []
    assert cpu_features({}, info(tmp_path, "fpu sse2")) == []


def test_auto_is_float32_without_a_measurement_when_the_cpu_has_no_bfloat16(monkeypatch):
    monkeypatch.setattr(precision, "rates", lambda: pytest.fail("nothing to measure"))
    found = best_precision(["avx2"])
    assert found.precision == "32-true" and "no bfloat16" in found.reason and "avx2" in found.reason
    assert best_precision([]).precision == "32-true"  # no AVX2 either: a line, no failure


@pytest.mark.parametrize(("half", "expected"), [(101.0, "32-true"), (205.0, "32-true"), (400.0, "bf16-mixed")])
def test_auto_is_bfloat16_only_where_it_is_faster(monkeypatch, half, expected):
    """Instructions alone say little: seen on a Xeon with AVX512-BF16, 101 GFLOP/s in bfloat16 and 201 in float32."""
    monkeypatch.setattr(precision, "rates", lambda: (201.0, half))
    found = best_precision(["avx2", "avx512f", "avx512_bf16"])
    assert found.precision == expected and f"{half:.0f} GFLOP/s in bfloat16, 201 in float32" in found.reason


def test_rates_are_those_of_products():
    full, half = precision.rates(0.01)
    assert 0.5 < full < 5000 and 0.05 < half < 20000  # GFLOP/s of one thread


def test_explicit_choice_is_obeyed_with_a_warning_where_it_is_emulated(monkeypatch):
    monkeypatch.setattr(precision, "cpu_features", lambda: ["avx2"])
    kept, line = settle("bf16-mixed", "cpu", None)
    assert kept == "bf16-mixed" and line.startswith("warning:") and "emulated" in line and "avx2" in line
    assert settle("32-true", "cpu", None) == ("32-true", "")
    assert settle(None, "cpu", None) == (None, "")
    monkeypatch.setattr(precision, "cpu_features", lambda: ["avx512_bf16"])
    assert settle("bf16-mixed", "cpu", None) == ("bf16-mixed", "")


def test_auto_on_a_gpu_is_bfloat16():
    assert settle("auto", "gpu", None) == ("bf16-mixed", "")


OTHER = "{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: other}}"


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        ("a", ["--trainer.logger.version", "a"]),
        ("version_0", ["--trainer.logger.version", "0"]),
        ("a", ["--trainer.logger", f"[{OTHER}, {{class_path: RunLogger, init_args: {{name: toy, version: a}}}}]"]),
        ("a", ["--ckpt_path", "runs/toy/a/checkpoints/step-00000001.ckpt"]),
    ],
)  # fmt: skip
def test_auto_keeps_the_precision_of_the_run_that_goes_on(tmp_path, monkeypatch, capsys, folder, options):
    """Begun in bfloat16, gone on with on a CPU that would choose float32: it never kept it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(precision, "cpu_features", lambda: ["avx2"])
    named = ["--trainer.precision", "auto", "--trainer.logger.name", "toy"]
    run("sft", *named, "--trainer.logger.version", "0" if folder == "version_0" else folder, "--trainer.max_steps", "1")
    config = tmp_path / "runs/toy" / folder / "config.yaml"
    assert "this CPU has no bfloat16" in capsys.readouterr().err and settled(config) == "32-true"  # it is new
    config.write_text(config.read_text().replace("precision: 32-true", "precision: bf16-mixed"))
    run("sft", *named, *options, "--trainer.max_steps", "2")
    assert "precision: bf16-mixed, as this run began" in capsys.readouterr().err
    assert {settled(path) for path in tmp_path.glob("runs/toy/*/config.yaml")} == {"bf16-mixed"}


def settled(config: Path) -> str:
    return yaml.safe_load(config.read_text())["trainer"]["precision"]


def test_trainer_takes_auto():
    trainer = StageTrainer(accelerator="cpu", precision="auto", logger=False, enable_checkpointing=False)
    assert trainer.precision in ("32-true", "bf16-mixed")


def test_embedded_configs_ask_for_auto():
    read = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / "configs").glob("*.yaml")}
    trainers = {name: config.get("trainer", {}) for name, config in read.items()}
    precisions = {name: trainer["precision"] for name, trainer in trainers.items() if "precision" in trainer}
    assert len(precisions) >= 9 and set(precisions.values()) == {"auto"}


def test_rows_of_different_precision_are_not_mixed_without_a_note():
    runs = {name: {"machine": {"precision": value}} for name, value in (("a", "float32"), ("b", "bf16-mixed"))}
    assert mixed(runs) == "note: rows differ in precision: a float32, b bf16-mixed"
    assert mixed({"a": runs["a"], "c": runs["a"], "old": {}}) == ""
