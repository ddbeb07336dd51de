"""What a user can get wrong, through the command line: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from lightning_paras2s.cli import main
from lightning_paras2s.hearing.recognizers import StyleNetwork
from lightning_paras2s.hearing.transcribers import CTCNetwork
from lightning_paras2s.models.checkpoint import FORMAT, save_module
from lightning_paras2s.models.tiny.lm import TinySpeechLM
from lightning_paras2s.models.tiny.tokenizer import TinyTokenizer
from lightning_paras2s.models.tiny.vocabulary import TextVocab

ROOT = Path(__file__).parents[1]
RATE = 16_000
POLICY = {"text_vocab_size": len(TextVocab()), "feature_size": 264, "levels": [4, 3], "width": 16, "heads": 2}
POLICY |= {"shared_layers": 1, "text_layers": 1, "audio_layers": 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Untrained weights of every part, and some that are wrong."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    TinyTokenizer((4, 3), width=8).save(folder / "tokenizer.safetensors")
    save_module(CTCNetwork(8, 1), folder / "transcriber.safetensors")
    save_module(StyleNetwork(8, 1), folder / "style.safetensors")
    TinySpeechLM(**POLICY).save(folder / "policy.safetensors")
    TinySpeechLM(**{**POLICY, "width": 32}).save(folder / "wide.safetensors")
    header = {"class": "TinySpeechLM", "format": str(FORMAT + 1), "settings": json.dumps(POLICY)}
    save_file(load_file(folder / "policy.safetensors"), folder / "version.safetensors", metadata=header)
    whole = (folder / "policy.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    return folder


def tone(rate: int = RATE, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 300 * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def record(number: int, **changes) -> dict:
    row = {"id": f"q{number}", "pair_id": "p", "factor": "sarcasm", "split": "train", "text": "We sold the house."}
    styles = {"sarcasm": ("sincere", "sarcastic")[number % 2]}
    return {**row, "styles": styles, "topic": "home", "audio": "a.wav", **changes}


@pytest.fixture
def place(tmp_path, monkeypatch, weights) -> Path:
    """Two queries, one stage's config and the benchmark's; the working directory."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", tone(), RATE)
    write_manifest(json.dumps(record(1)), json.dumps(record(2)))
    part = {name: str(weights / f"{name}.safetensors") for name in ("tokenizer", "transcriber", "style", "policy")}
    logger = {"class_path": "RunLogger", "init_args": {"name": "grpo", "version": "a"}}
    trainer = {"accelerator": "cpu", "devices": 1, "max_steps": 1, "num_sanity_val_steps": 0, "limit_val_batches": 0}
    model = {
        "policy": {"class_path": "TinySpeechLM", "init_args": POLICY},
        "init_from": part["policy"],
        "reward": {"class_path": "TokenCountReward", "init_args": {"token": 0}},
        "group_size": 2,
        "sampling": {"max_steps": 4},
    }
    source = {"class_path": "ManifestDialogues", "init_args": {"manifest": "queries.jsonl"}}
    data = {"source": source, "labelled": False, "batch_size": 2, "cache_dir": "cache"}
    heard = {name: part[name] for name in ("tokenizer", "transcriber")}
    fit = {
        "trainer": {**trainer, "enable_model_summary": False, "logger": logger},
        "model": {"class_path": "GRPOModule", "init_args": model},
        "data": {
            "class_path": "DualStreamDataModule",
            "init_args": {**data, "processor": {"class_path": "TinyProcessor", "init_args": heard}},
        },
        "progress": {"refresh_rate": 0},
    }
    ear = {"class_path": "TinyTranscriber", "init_args": {"path": part["transcriber"]}}
    evaluate = {
        "manifest": "queries.jsonl",
        "output": "out",
        "systems": {
            "cascade": {
                "class_path": "CascadeSystem",
                "init_args": {"transcriber": ear, "synthesizer": "EspeakSynthesizer"},
            }
        },
        "judge": {
            "class_path": "EmbeddedJudge",
            "init_args": {"acts": str(ROOT / "checkpoints/embedded/acts.safetensors")},
        },
        "transcriber": ear,
        "recognizer": {"class_path": "AcousticStyleRecognizer", "init_args": {"path": part["style"]}},
        "foreign_speech": "judge",  # to an untrained ear, all speech is strange
    }
    Path("fit.yaml").write_text(json.dumps(fit))  # JSON is YAML
    Path("evaluate.yaml").write_text(json.dumps(evaluate))
    return tmp_path


def write_manifest(*lines: str) -> None:
    Path("queries.jsonl").write_text("".join(f"{line}\n" for line in lines))


def files() -> set[str]:
    """What there is but for the caches of codes, which are whole and serve any run."""
    return {str(p) for p in Path(".").rglob("*") if p.is_file() and p.parts[0] != "cache"}


def refused(command: str, *options: str) -> str:
    """Run a command that must fail; -> its one line."""
    before, stderr = files(), io.StringIO()
    with pytest.raises(SystemExit) as stop, redirect_stderr(stderr):
        main([command, "--config", f"{command}.yaml", *options])
    error = stderr.getvalue()
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert stop.value.code == 2 and len(lines) == 1 and "Traceback" not in error
    assert files() == before
    return lines[0]


def spoil(kind: str) -> None:
    """Make a.wav bad."""
    path = Path("a.wav")
    good = path.read_bytes()
    path.unlink()
    if kind == "empty":
        path.touch()
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0, np.float32), RATE)
    elif kind == "corrupt":
        path.write_bytes(good[:20])
    elif kind == "text":
        path.write_text("this is no audio\n" * 100)
    elif kind == "over-long":
        soundfile.write(path, np.zeros(8_000 * 61, np.float32), 8_000)
    elif kind == "not a number":
        soundfile.write(path, np.array([0, np.nan, 0], np.float32), RATE, "FLOAT")


@pytest.mark.parametrize("command", ["fit", "evaluate"])
@pytest.mark.parametrize(
    "kind, must",
    [
        ("missing", "queries.jsonl:1: audio must be an existing file; got"),
        ("empty", "audio must be readable"),
        ("no samples", "audio must hold at least one sample; got none"),
        ("corrupt", "audio must be readable"),
        ("text", "audio must be readable"),
        ("over-long", "audio must last at most 60 s; got 61.0 s"),
        ("not a number", "audio must be finite"),
    ],
)
def test_audio_is_refused_when_it_is_bad(place, command, kind, must):
    spoil(kind)
    error = refused(command)
    assert must in error and "a.wav" in error


@pytest.mark.parametrize("command", ["fit", "evaluate"])
@pytest.mark.parametrize(
    "second, must",
    [
        ("{not json", "queries.jsonl:2: each line must be one JSON object; got '{not json'"),
        ("[1, 2]", "queries.jsonl:2: each line must be one JSON object; got list"),
        (json.dumps({k: v for k, v in record(2).items() if k != "text"}), "queries.jsonl:2: a query must have text"),
        (json.dumps(record(2, mood="sad")), "queries.jsonl:2: unknown field mood"),
        (json.dumps(record(1)), "queries.jsonl:2: id 'q1' was already used on line 1"),
        (json.dumps(record(2, audio="none.wav")), "queries.jsonl:2: audio must be an existing file; got"),
        (json.dumps(record(2, styles={"sarcasm": "dry"})), "sarcasm must be one of sincere, sarcastic; got 'dry'"),
        (json.dumps(record(2, styles={"sarcasm": "sincere", "mood": "dry"})), "mood"),
        (json.dumps(record(2, styles="sincere")), "styles"),
    ],
)
def test_manifest_is_refused_when_a_line_is_wrong(place, command, second, must):
    write_manifest(json.dumps(record(1)), second)
    error = refused(command)
    assert must in error and "queries.jsonl:2" in error


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_manifest_is_refused_when_it_is_missing_empty_or_no_text(place, command):
    write_manifest()
    assert "must list at least one query; got none" in refused(command)
    Path("queries.jsonl").write_bytes(b"\xff\xfe\x00\x01\n")
    assert "queries.jsonl" in refused(command)
    Path("queries.jsonl").unlink()
    assert "must be a file or folder that is there; got" in refused(command)


@pytest.mark.parametrize(
    "name, must",
    [
        ("nowhere", "--model.init_from must be a file or folder that is there; got"),
        ("cut", "must be a whole safetensors file; got"),
        ("tokenizer", "must hold a TinySpeechLM of format 1; got TinyTokenizer format 1"),
        ("version", f"must hold a TinySpeechLM of format 1; got TinySpeechLM format {FORMAT + 1}"),
        ("wide", "must fit the configured policy; got"),
    ],
)
def test_weights_are_refused_when_of_another_model_or_version(place, weights, name, must):
    error = refused("fit", "--model.init_from", str(weights / f"{name}.safetensors"))
    assert must in error and f"{name}.safetensors" in error


def test_policy_is_refused_when_its_codes_are_not_the_tokenizers(place):
    """It would take a code for its blank, and train on that in silence. 4 x 3 codes fit, 4 x 5 do not."""
    error = refused("fit", "--model.policy.init_args.levels", "[4, 5]", "--model.init_from", "null")
    assert "levels must make the 12 codes of" in error and "got 20" in error


@pytest.mark.parametrize(
    "options, must",
    [
        (["--model.group_size", "1"], "group_size must be at least 2, because a response is judged against its group"),
        (["--model.groupsize", "4"], "groupsize"),
        (["--model.sampling.max_steps", "many"], "many"),
        (["--model.kl", "k4"], "must be one of k1, k2, k3; got 'k4'"),
        (["--config", "nosuch.yaml"], "got 'nosuch.yaml'"),
        (["--ckpt_path", "none.ckpt"], "--ckpt_path must be an existing checkpoint or 'last'; got none.ckpt"),
        (["--ckpt_path", "a.wav"], "a checkpoint must be one that `fit` wrote, whole; got a.wav"),
    ],
)
def test_fit_is_refused_when_an_option_is_wrong(place, options, must):
    assert must in refused("fit", *options)


@pytest.mark.parametrize(
    "options, must",
    [
        (["--samples", "0"], "there must be a system, a sample and a batch; got 1, 0, 32"),
        (["--label_source", "guess"], "label_source must be one of gold, predicted; got 'guess'"),
        (["--config", "nosuch.yaml"], "got 'nosuch.yaml'"),
        (["--systems.cascade.class_path", "NoSystem"], "NoSystem"),
    ],
)
def test_evaluate_is_refused_when_an_option_is_wrong(place, options, must):
    assert must in refused("evaluate", *options)


def test_run_is_refused_when_its_checkpoint_is_another_models(place):
    main(["fit", "--config", "fit.yaml"])
    written = Path("runs/grpo/a/config.yaml").read_bytes()
    config = Path("fit.yaml").read_text().replace('"width": 16', '"width": 32')
    Path("fit.yaml").write_text(config)
    error = refused("fit", "--model.init_from", "null", "--trainer.max_steps", "2")
    assert "step-00000001.ckpt must be a checkpoint of this model; got another's (size mismatch for policy." in error
    assert Path("runs/grpo/a/config.yaml").read_bytes() == written  # the refused run's options replace nothing


def test_run_is_refused_when_its_checkpoint_lies_in_shards(place):
    """Several processes wrote it; here is one."""
    folder = Path("shards.ckpt")
    torch.distributed.checkpoint.save({"state_dict": {"a": torch.ones(1)}}, checkpoint_id=folder, no_dist=True)
    assert "must be one that `fit` wrote, whole; got shards.ckpt without meta.pt" in refused(
        "fit", "--ckpt_path", str(folder)
    )
    torch.save({}, folder / "meta.pt")
    error = refused("fit", "--ckpt_path", str(folder))
    assert "shards.ckpt was written in shards (FSDP2) and must be read so; got SingleDeviceStrategy; set the" in error


@pytest.mark.parametrize("kind", ["stereo", "8 kHz", "44.1 kHz", "48 kHz", "clipped", "24 bit FLAC"])
def test_audio_is_taken_when_it_is_only_otherwise(place, kind):
    """Rates, channels and levels are mended on the way in: training and benchmark run through."""
    rate = {"8 kHz": 8_000, "44.1 kHz": 44_100, "48 kHz": 48_000}.get(kind, RATE)
    samples = tone(rate)
    if kind == "stereo":
        samples = np.stack([samples, 0.5 * samples], 1)
    elif kind == "clipped":
        samples = np.clip(8 * samples, -1, 1)
    soundfile.write("a.wav", samples, rate)
    if kind == "24 bit FLAC":
        soundfile.write("a.flac", samples, rate, "PCM_24", format="FLAC")
        shutil.move("a.flac", "a.wav")
    main(["fit", "--config", "fit.yaml"])
    assert Path("runs/grpo/a/policy.safetensors").is_file()
    main(["evaluate", "--config", "evaluate.yaml"])
    assert json.loads(Path("out/summary.json").read_text())["systems"]["cascade"]["sarcasm"]["n"] == 2
