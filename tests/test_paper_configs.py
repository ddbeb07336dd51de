"""The paper's chain, config by config as it stands in the repository, in a lab whose models are tiny: demonstrations ->
SFT -> judged samples -> reward model -> GRPO -> benchmark. Only the machine, the number of steps and the judges that
cost money are replaced.
"""

import inspect
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_models import write_models

from lightning_paras2s.audio import write_audio
from lightning_paras2s.cli import dispatch
from lightning_paras2s.data.preferences import Preference
from lightning_paras2s.errors import UserError
from lightning_paras2s.models.kimi.lm import KimiAudio
from lightning_paras2s.models.qwen_omni import scorer as qwen_omni
from lightning_paras2s.modules.grpo import GRPOModule
from lightning_paras2s.modules.reward import RewardModule
from lightning_paras2s.modules.sample import SampleModule
from lightning_paras2s.modules.sft import SFTModule
from lightning_paras2s.types import Audio, Response, read_jsonl

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "configs" / "paper"
HERE = [
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--progress.refresh_rate=0",
    "--checkpoint.every_n_batches=0",
]
SHORT = ["--model.sampling.max_steps=10"]


def query_line(name: str, split: str, pair: str, style: str, seconds: float, folder: Path) -> str:
    noise = np.random.default_rng(len(name)).standard_normal(int(16_000 * seconds)).astype(np.float32) * 0.1
    write_audio(folder / f"{name}.wav", Audio(noise, 16_000))
    row = {"id": name, "pair_id": pair, "factor": "sarcasm", "split": split, "text": "so nice", "topic": "rain"}
    return json.dumps(row | {"styles": {"sarcasm": style}, "audio": f"{name}.wav"}) + "\n"


def write_queries(folder: Path, file: str, count: int, split: str = "train") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    styles = ("sincere", "sarcastic")
    stem = Path(file).stem
    rows = [
        query_line(f"{stem}{i}", split, f"{stem}{i // 2}", styles[i % 2], 0.3 + 0.1 * i, folder) for i in range(count)
    ]
    (folder / file).write_text("".join(rows))


def write_lab(folder: Path) -> None:
    """The data of all steps, and what of the repository they name."""
    (folder / "checkpoints").symlink_to(ROOT / "checkpoints")
    (folder / "configs").symlink_to(ROOT / "configs")
    for part in ("demonstrations", "preferences", "queries"):
        write_queries(folder / "data" / part, "train.jsonl", 8)
        write_queries(folder / "data" / part, "val.jsonl", 2)
    write_queries(folder / "data" / "paras2sbench", "queries.jsonl", 2, "test")
    demonstrations = folder / "data" / "demonstrations"
    noise = np.random.default_rng(9).standard_normal(8000).astype(np.float32) * 0.1
    write_audio(demonstrations / "answer.wav", Audio(noise, 16_000))
    names = [f"train{i}" for i in range(8)] + [f"val{i}" for i in range(2)]
    rows = [{"query_id": n, "system": "demo", "audio": "answer.wav", "text": "oh no"} for n in names]
    (demonstrations / "answers.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


STYLE = "checkpoints/embedded/style.safetensors"  # said, because the config's other recogniser has a path, too


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    write_models(folder / "models")
    write_lab(folder)
    with pytest.MonkeyPatch.context() as patch:
        # a byte is a token to the tiny reward model, and the real guideline is 5,000 bytes
        patch.setattr(qwen_omni, "GUIDELINE", "Fit?")
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def sft(lab) -> Path:
    dispatch(["fit", "--config", "paper/sft.yaml", *HERE, "--trainer.max_steps=2", "--data.batch_size=4"])
    return Path("runs/paper_sft/version_0")


@pytest.fixture(scope="module")
def judged(sft) -> Path:
    """The paper's judge asks GPT-4.1; the embedded one takes its place."""
    embedded = yaml.safe_load((ROOT / "configs" / "preferences.yaml").read_text())["model"]["init_args"]["reward"]
    embedded["init_args"]["style"] = {"class_path": "AcousticStyleRecognizer", "init_args": {"path": STYLE}}
    options = [*HERE[:3], *SHORT, "--model.samples=2", f"--model.reward={json.dumps(embedded)}", "--data.batch_size=2"]
    dispatch(["predict", "--config", "paper/preferences.yaml", *options])
    return Path("runs/paper_preferences/data")


@pytest.fixture(scope="module")
def scorer(judged) -> Path:
    options = [*HERE, "--data.batch_size=2", "--trainer.limit_train_batches=2", "--trainer.log_every_n_steps=1"]
    dispatch(["fit", "--config", "paper/reward.yaml", *options])
    return Path("runs/paper_reward/version_0")


def logged(run: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_sft_then_its_policy_loads_as_released(sft):
    losses = logged(sft, "train/loss")
    # untrained: ln of 256 text ids + ln of 66 audio ids = 9.7; the golden weights are far from uniform
    assert len(losses) == 2 and all(5 < loss < 40 for loss in losses)
    before, after = (KimiAudio(p) for p in ("models/Kimi-Audio-7B-Instruct", str(sft / "policy")))
    moved = [n for (n, a), b in zip(before.named_parameters(), after.parameters()) if not torch.equal(a, b)]
    assert len(moved) == 83
    assert (sft / "policy" / "tiktoken.model").is_file()


def test_predict_judges_samples_of_the_policy(judged):
    for split, count in (("train", 16), ("val", 4)):
        rows = read_jsonl(judged / f"{split}.jsonl", Preference)
        assert len(rows) == count and all(1 <= row.score <= 5 for row in rows)
        assert all((judged / row.response_audio).is_file() for row in rows)


def test_reward_model_learns_adapters_alone(scorer):
    assert len(logged(scorer, "val/mae")) == 1
    trained = qwen_omni.TrainedOmniScorer(str(scorer / "scorer.safetensors"))
    up = [p for n, p in trained.named_parameters() if "lora_B" in n]
    assert up and all(p.dtype == torch.float32 and p.any() for p in up)  # B starts at zero
    assert {p.dtype for n, p in trained.named_parameters() if "lora" not in n} == {torch.bfloat16}


@pytest.mark.parametrize(("rank", "precision"), [(0, "32-true"), (4, "32-true"), (0, "bf16-mixed")])
def test_grpo_moves_the_policy(rank, precision, scorer):
    options = [*HERE, *SHORT, "--trainer.max_steps=1", "--model.group_size=2", "--data.batch_size=2"]
    options += ["--trainer.limit_val_batches=1", f"--model.policy.init_args.lora_rank={rank}"]
    options += ["--model.max_unscored=1.0", f"--trainer.logger.version=rank{rank}-{precision}"]
    options += [f"--trainer.precision={precision}"]
    dispatch(["fit", "--config", "paper/grpo.yaml", *options])
    run = Path(f"runs/paper_grpo/rank{rank}-{precision}")
    (kl,) = logged(run, "train/kl")
    assert abs(kl) < 1e-5  # the first update starts at the reference
    assert KimiAudio(str(run / "policy")).lm_head.weight.isfinite().all()


def test_grpo_speaks_and_scores_beside_its_sampling_with_the_same_numbers(scorer):
    """Flow matching, vocoder and reward model in a thread of their own in the second of two steps."""
    options = [*HERE, *SHORT, "--trainer.max_steps=2", "--model.group_size=2", "--data.batch_size=2", "--model.lr=1e-3"]
    options += ["--trainer.limit_val_batches=0", "--model.policy.init_args.lora_rank=4", "--model.max_unscored=1.0"]
    options += ["--model.rollout_parts=2"]
    for overlap in ("never", "always"):
        end = [f"--model.overlap={overlap}", f"--trainer.logger.version={overlap}"]
        dispatch(["fit", "--config", "paper/grpo.yaml", *options, *end])
    runs = [Path(f"runs/paper_grpo/{overlap}") for overlap in ("never", "always")]
    for name in ("train/reward", "train/loss", "train/kl", "train/grad_norm"):
        first, then = (logged(run, name) for run in runs)
        assert len(first) == 2 and first == then, name
    first, then = (KimiAudio(str(run / "policy")).state_dict() for run in runs)
    assert all(torch.equal(first[name], then[name]) for name in first)


def test_benchmark_of_the_released_and_the_trained(lab, sft):
    config = yaml.safe_load((PAPER / "evaluate.yaml").read_text())
    embedded = yaml.safe_load((ROOT / "configs" / "evaluate.yaml").read_text())
    config |= {name: embedded[name] for name in ("judge", "transcriber", "recognizer")}
    config["foreign_speech"] = "judge"  # random weights speak no voice that an ear knows
    config["systems"]["grpo"]["init_args"]["policy"] = "runs/paper_sft/version_0/policy"
    for system in config["systems"].values():
        system["init_args"]["sampling"]["max_steps"] = 12
    Path("tiny.yaml").write_text(yaml.safe_dump(config))
    dispatch(["evaluate", "--config", "tiny.yaml"])
    responses = read_jsonl("runs/paper_evaluate/responses.jsonl", Response)
    assert sorted(r.system for r in responses) == ["grpo", "grpo", "kimi", "kimi", "sft", "sft"]
    assert all(Path("runs/paper_evaluate", r.audio).is_file() for r in responses if r.audio)


def test_values_are_those_that_the_paper_prints():
    """Appendix A.4: 8 GPUs; SFT 1e-5, 64; reward model 1e-6, 10; RL 5e-4, B = 32, G = 8; beta 0.2 from A.6."""
    read = {p.stem: yaml.safe_load(p.read_text()) for p in PAPER.glob("*.yaml")}
    model = {name: c["model"]["init_args"] for name, c in read.items() if "model" in c}
    batch = {name: read[name]["data"]["init_args"]["batch_size"] for name in ("sft", "reward", "grpo")}
    assert (model["sft"]["lr"], 8 * batch["sft"]) == (1e-5, 64)
    assert (model["reward"]["lr"], batch["reward"]) == (1e-6, 10)
    assert (model["grpo"]["lr"], 8 * batch["grpo"], model["grpo"]["group_size"]) == (5e-4, 32, 8)
    assert model["grpo"]["beta"] == 0.2 and model["preferences"]["samples"] == 32
    assert "1e-6 to 5e-6" in (PAPER / "grpo.yaml").read_text()  # the note on the printed rate


@pytest.mark.parametrize(
    ("stage", "option", "printed"),
    [
        (SFTModule, "lr", 1e-5),
        (RewardModule, "lr", 1e-6),
        (GRPOModule, "lr", 5e-4),
        (GRPOModule, "group_size", 8),
        (GRPOModule, "beta", 0.2),
        (SampleModule, "samples", 32),
    ],
)
def test_defaults_of_the_stages_are_what_the_paper_prints(stage, option, printed):
    """Appendix A.4, beta A.6; the README promises it."""
    assert inspect.signature(stage).parameters[option].default == printed


def test_a_chat_model_describes_the_voices_of_emotion_and_sarcasm():
    """Section 3.1, step 3: "a style description, which we generate with ChatGPT based on the style label"."""
    spoken = yaml.safe_load((PAPER / "chain.yaml").read_text())["stages"]["synthesize"]["commands"]
    directed = [shlex.split(command) for command in spoken if "OpenAITTS" in command]
    assert len(directed) == 3
    for words in directed:
        assert words[words.index("--synthesizer.describer") + 1] == "OpenAIChat"
        assert words[words.index("--synthesizer.describer.model") + 1] == "gpt-4.1"


def test_baseline_and_topline_write_with_the_chat_model_that_the_paper_names():
    """ "ChatGPT 4.1" (section 5.1, of the answers that Table 1 has spoken; A.3)."""
    systems = yaml.safe_load((PAPER / "evaluate_systems.yaml").read_text())["systems"]
    for name in ("whisper_gpt_tts", "gpt_tts_topline"):
        assert systems[name]["init_args"]["llm"]["init_args"]["model"] == "gpt-4.1"


def test_overlong_query_is_refused_before_weights_are_read(lab):
    """256 positions of this config: 6 marks + 12.5 * 660 = 8,250 codes + 256 steps = 8,512."""
    write_audio(lab / "data" / "queries" / "train0.wav", Audio(np.zeros(660 * 100, np.float32), 100))
    with pytest.raises(UserError, match=r"must fit in 256 positions .*; got 8512 for 'train0' \(660 s and 256 steps\)"):
        dispatch(["fit", "--config", "paper/grpo.yaml", *HERE, "--trainer.max_steps=1"])
