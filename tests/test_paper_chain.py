"""`chain`: what is done is left, what was killed goes on, what changed is not mixed; and the figures of its configs."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lightning_paras2s.cli import dispatch
from lightning_paras2s.errors import UserError
from lightning_paras2s.running import chain as module
from lightning_paras2s.running.chain import chain
from lightning_paras2s.running.stages import Stage

ROOT = Path(__file__).parents[1]
MINE, SFT = "mine --out data", "fit --config sft.yaml --trainer.logger.version 0"


def stages() -> dict[str, Stage]:
    return {
        "mine": Stage([MINE], [], ["data/scripts.jsonl"], 2.0, 10.0),
        "sft": Stage([SFT], ["data/scripts.jsonl"], ["runs/sft/policy"], 0.5, 0.0, 8),
        "leaderboard": Stage(["leaderboard --runs [runs]"], ["runs/sft/policy"], ["table.md"]),
    }


class Runs:
    """In place of processes: writes what each command would, and remembers what it was asked for."""

    WRITES = {"mine": "data/scripts.jsonl", "fit": "runs/sft/policy/weights", "leaderboard": "table.md"}

    def __init__(self) -> None:
        self.asked, self.dies, self.text = [], "", "first"

    def __call__(self, words) -> None:
        self.asked.append(words[0])
        if words[0] == self.dies:
            raise KeyboardInterrupt
        path = Path(self.WRITES[words[0]])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text if words[0] == "mine" else "made")


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Runs:
    monkeypatch.chdir(tmp_path)
    made = Runs()
    monkeypatch.setattr(module, "run", made)
    return made


def states(**options) -> list[str]:
    return [row["state"] for row in chain(stages(), dry_run=True, **options)["stages"]]


def test_a_second_start_does_nothing_when_all_is_done(runs):
    assert states() == ["to do"] * 3 and not Path("runs").exists()
    done = chain(stages(), usd_per_gpu_hour=2.5)
    assert runs.asked == ["mine", "fit", "leaderboard"] and done["hours"] == done["usd"] == 0
    chain(stages())
    assert len(runs.asked) == 3 and states() == ["done"] * 3


def test_hours_and_dollars_are_those_of_what_is_left(runs):
    """2 h and 10 USD of servers; half an hour of eight GPUs at 2.5."""
    table = chain(stages(), usd_per_gpu_hour=2.5, dry_run=True)
    assert (table["hours"], table["gpu_hours"], table["usd"]) == (2.5, 4.0, 10 + 0.5 * 8 * 2.5)
    chain(stages(), only=["mine"])
    assert chain(stages(), usd_per_gpu_hour=2.5, dry_run=True)["usd"] == 10.0


@pytest.mark.parametrize("dies", ["mine", "fit", "leaderboard"])
def test_a_killed_chain_goes_on_where_it_was(dies, runs):
    runs.dies = dies
    with pytest.raises(KeyboardInterrupt):
        chain(stages())
    before, runs.asked, runs.dies = list(runs.asked), [], ""
    assert states()[len(before) - 1] == "begun"
    chain(stages())
    assert runs.asked == ["mine", "fit", "leaderboard"][len(before) - 1 :] and states() == ["done"] * 3


def test_an_output_that_is_lost_is_made_again(runs):
    chain(stages())
    Path("table.md").unlink()
    Path("data/scripts.jsonl").write_text("by hand")
    # the hand's change is an input of sft: training must not go on from weights that came of other inputs
    assert states() == ["changed", "changed", "changed"]
    chain(stages())  # mining writes the same again, so that sft is what it was
    assert runs.asked[3:] == ["mine", "leaderboard"] and states() == ["done"] * 3


def test_training_is_refused_when_its_inputs_changed(runs):
    chain(stages())
    runs.text = "second"
    Path("data/scripts.jsonl").unlink()
    with pytest.raises(UserError, match=r"sft was begun from other inputs \(data/scripts.jsonl\).*another version"):
        chain(stages())
    assert runs.asked[3:] == ["mine"]
    chain(stages(), only=["leaderboard"])
    assert runs.asked[3:] == ["mine"]  # the policy is the same
    with pytest.raises(UserError, match=r"\(its options, data/scripts.jsonl\)"):
        chain(stages(), more={"sft": "--seed_everything 2"})
    Path("runs/chain/sft.json").unlink()
    chain(stages())
    assert runs.asked[3:] == ["mine", "fit"]


@pytest.mark.parametrize("typed", ["--config own.yaml", "--config=own.yaml", "-c own.yaml", "-c=own.yaml"])
def test_a_config_is_known_by_its_content(typed, runs):
    Path("configs").mkdir()
    Path("configs/own.yaml").write_text("seed_everything: 1\n")
    made = {"mine": stages()["mine"], "sft": replace(stages()["sft"], commands=[f"fit {typed}"])}
    chain(made)
    Path("configs/own.yaml").write_text("seed_everything: 2\n")
    assert [row["state"] for row in chain(made, dry_run=True)["stages"]] == ["done", "changed"]


@pytest.mark.parametrize(
    "typed",
    [
        "bench --config bench.yaml",
        "bench --mine '[--config, mine.yaml, --count, \"3\"]'",
        "sweep --stages '{sft: --config=mine.yaml --model.lr 1}' --evaluate '-c sft.yaml' --name a --points [{}]",
    ],
)
def test_a_config_that_a_steps_options_name_is_known_by_its_content(typed, runs):
    """`bench` and `sweep` hand their steps options of their own, in a config or as typed."""
    Path("bench.yaml").write_text("mine: [--config, mine.yaml]\n")
    Path("mine.yaml").write_text("seed: 1\n")
    made = {"all": Stage([typed], [], ["made.json"])}
    runs.WRITES = runs.WRITES | {"bench": "made.json", "sweep": "made.json"}
    chain(made)
    assert [row["state"] for row in chain(made, dry_run=True)["stages"]] == ["done"]
    Path("mine.yaml").write_text("seed: 2\n")
    assert [row["state"] for row in chain(made, dry_run=True)["stages"]] == ["changed"]


def test_a_stage_with_an_empty_list_among_its_options_runs(runs):
    """It was a traceback, since a list may be the options of a step."""
    made = {"filter": Stage(["filter --manifest data.jsonl --out kept.jsonl --factors_heard []"], [], ["kept.jsonl"])}
    runs.WRITES = runs.WRITES | {"filter": "kept.jsonl"}
    chain(made)
    assert runs.asked == ["filter"] and [row["state"] for row in chain(made, dry_run=True)["stages"]] == ["done"]


@pytest.mark.parametrize(
    "change, told",
    [
        ({"commands": ["min --out data"]}, "the stage mine must run commands of this program"),
        ({"commands": ["mine --out data --cuont 3"]}, "the stage mine: .*did you mean --count"),
        ({"commands": ["fit --config none.yaml"]}, "the stage mine: a config must be"),
        ({"commands": []}, "must have commands"),
        ({"reads": ["voices.jsonl"]}, "the stage mine reads voices.jsonl, which must be there"),
        ({"writes": ["other.jsonl"]}, "the stage sft reads data/scripts.jsonl"),
    ],
)
def test_a_chain_that_cannot_be_is_refused_before_its_first_stage(change, told, runs):
    made = stages() | {"mine": replace(stages()["mine"], **change)}
    with pytest.raises(UserError, match=told):
        chain(made)
    assert runs.asked == [] and not Path("runs").exists()


def test_a_stage_that_writes_nothing_is_not_done(runs):
    runs.WRITES = Runs.WRITES | {"mine": "elsewhere/scripts.jsonl"}
    with pytest.raises(UserError, match="the stage mine must write data/scripts.jsonl; it did not"):
        chain(stages())
    assert states()[0] == "begun"


def test_an_unknown_stage_is_named(runs):
    for options in ({"only": ["stf"]}, {"more": {"stf": ""}}):
        with pytest.raises(UserError, match="a stage must be one of mine, sft, leaderboard; got 'stf'"):
            chain(stages(), **options)


def test_a_command_that_fails_ends_the_chain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="must end well; got exit code 2"):
        module.run(["nothing"])


def shown(config: str) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        dispatch(["chain", "--config", config, "--dry_run"])
    return out.getvalue()


@pytest.mark.parametrize("scale", ["paper", "onegpu"])
def test_dry_run_prints_every_stage_on_80_columns(scale, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = shown(f"{scale}/chain.yaml")
    assert max(map(len, told.splitlines())) <= 80
    config = yaml.safe_load((ROOT / f"configs/{scale}/chain.yaml").read_text())
    for name, stage in config["stages"].items():
        assert re.search(rf"^{name} +to do ", told, re.M), name
        assert all(path in told for path in (*stage["reads"], *stage["writes"]))
    assert list(tmp_path.iterdir()) == []


def test_stages_are_the_papers_in_their_order():
    config = yaml.safe_load((ROOT / "configs/paper/chain.yaml").read_text())
    wanted = "mine synthesize filter deal demonstrate sft preferences reward grpo evaluate leaderboard".split()
    assert list(config["stages"]) == wanted
    trained = [s for s in config["stages"].values() for c in s["commands"] if c.startswith(("fit", "predict"))]
    assert len(trained) == 4 and all("--trainer.logger.version 0" in s["commands"][0] for s in trained)


def test_guide_tells_the_hours_and_dollars_of_the_config():
    config = yaml.safe_load((ROOT / "configs/paper/chain.yaml").read_text())
    guide = (ROOT / "docs/paper.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+)(?: x 8)? \| ([\d,]+) \|$", guide, re.M)
    told = {name: (float(hours), float(usd.replace(",", ""))) for name, hours, usd in rows}
    assert told == {n: (s.get("hours", 0), s.get("usd", 0)) for n, s in config["stages"].items()}


def test_estimates_follow_from_prices_and_the_cost_model(tmp_path):
    """The arithmetic of docs/paper.md, again: prices of GPT-4.1 (2 and 8 USD a million tokens) and of gpt-4o-mini-tts
    (0.015 a minute), 4 characters a token, and the bounds of `cost.py`."""
    from lightning_paras2s.bench.queries.mine import mine
    from lightning_paras2s.judging.rubric import PROMPT
    from lightning_paras2s.running.cost import Shape, Speech, decode_step
    from lightning_paras2s.running.gpus import GPUS
    from lightning_paras2s.running.plan import plan
    from lightning_paras2s.servers.chat import OpenAIChat

    config = yaml.safe_load((ROOT / "configs/paper/chain.yaml").read_text())["stages"]
    answers = 10_000 * 32
    verdict = ((len(PROMPT) / 4 + 80) * 2 + 40 * 8) / 1e6
    assert config["preferences"]["usd"] == pytest.approx(answers * verdict, rel=0.01)
    h100, speech = GPUS["h100"], Speech()
    decode = 256 * decode_step(Shape(), h100, 128, 150 + 128) / 0.6 * answers / 128
    spoken = answers * 256 / 12.5
    voice = spoken * (speech.detokenizer_flops / (h100.flops * 0.45) + speech.vocoder_flops / (h100.flops * 0.05))
    assert (decode + voice) / 3600 == pytest.approx(34, abs=0.5)
    # heard: Whisper 0.5 s, Audio-Reasoner 500 tokens of 16.8 GB at 60 % of the bandwidth for 8 at a time
    heard = answers * (0.5 + 500 * 16.8e9 / h100.bandwidth / 0.6 / 8)
    assert config["preferences"]["hours"] == pytest.approx((decode + voice + heard) / 3600, rel=0.02)
    reward = answers * 3 * speech.scorer_flops(2 * 12.3) / (h100.flops * 0.45) / 3600
    assert config["reward"]["hours"] == pytest.approx(reward, rel=0.02)
    with redirect_stdout(io.StringIO()):
        grpo = plan([str(ROOT / "configs/paper/grpo.yaml")])["gpu_hours"] / 8
    assert config["grpo"]["hours"] == pytest.approx(grpo, rel=0.02)
    llm = OpenAIChat("gpt-4.1", cache_dir="")
    mined = mine(str(tmp_path), llm, splits=["train", "val"], count=100, rounds=3, dry_run=True)
    assert config["mine"]["usd"] == pytest.approx(mined["usd"], rel=0.01) and mined["candidates"] == 43_200
    words, speaks = 10_000 * (1000 / 3 * 2 + 60 * 8) / 1e6, 10_000 * 10 * 25 / 120 * 0.015
    assert config["demonstrate"]["usd"] == pytest.approx(words + speaks, rel=0.01)
    assert config["synthesize"]["usd"] == pytest.approx(54_400 * 6.92 / 60 * 0.015, rel=0.01)
    judged = 2_400 * 3 * 2 * ((len(PROMPT) / 3 + 120) * 2 + 60 * 8) / 1e6
    assert config["evaluate"]["usd"] == pytest.approx(judged, rel=0.01)
    assert json.dumps(config).count("max_usd ") == 7  # whatever pays is capped


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hours": -1.0}, "the stage mine must take hours, usd and gpus of at least 0; got -1.0"),
        ({"usd": -2.0}, "the stage mine must take hours, usd and gpus of at least 0; got -2.0"),
        ({"commands": ["mine --out 'data"]}, "a command must be as one types it; got .*No closing quotation"),
    ],
)
def test_a_stage_that_nobody_can_read_or_pay_is_one_line(change, told, runs):
    with pytest.raises(UserError, match=told):
        chain(stages() | {"mine": replace(stages()["mine"], **change)}, dry_run=True)


def test_a_chain_of_nothing_or_of_a_negative_price_is_refused(runs):
    with pytest.raises(UserError, match="a chain must have at least one stage; got none"):
        chain({})
    with pytest.raises(UserError, match="usd_per_gpu_hour must not be negative; got -2.5"):
        chain(stages(), usd_per_gpu_hour=-2.5, dry_run=True)


def test_a_stage_whose_inputs_changed_while_it_ran_is_not_done(runs, monkeypatch):
    """It trained on the first text; the second must not stand as what its weights came of."""
    chain(stages(), only=["mine"])

    def training(words) -> None:
        runs(words)
        Path("data/scripts.jsonl").write_text("second")

    monkeypatch.setattr(module, "run", training)
    with pytest.raises(UserError, match="inputs of the stage sft changed while it ran: data/scripts.jsonl"):
        chain(stages(), only=["sft"])
    assert states()[1] == "changed"
