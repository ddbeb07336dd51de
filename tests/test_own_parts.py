"""Judges, systems, rewards and recordings as a user writes them: what the seams promise is held for these, too."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from beeps import BeepRecognizer, BeepSynthesizer, BeepTranscriber, beep_manifest

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.evaluate import evaluate
from lightning_paras2s.bench.queries.real_speech import import_speech
from lightning_paras2s.bench.queries.scripted import ScriptedLLM
from lightning_paras2s.bench.systems.base import Answer, S2SSystem
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.judges import Judge, LLMJudge
from lightning_paras2s.judging.rewards import JudgeReward, Reward, rewards_of
from lightning_paras2s.judging.rubric import Score
from lightning_paras2s.running.check import check
from lightning_paras2s.running.parts import part_sha
from lightning_paras2s.servers.chat import ChatLLM
from lightning_paras2s.servers.replies import Reply
from lightning_paras2s.speaking.codec import SpokenResponse
from lightning_paras2s.types import Audio, Query, Style, Verdict, read_jsonl

WORDS = "please sorry no we sold the house".split()
PLEASE = BeepSynthesizer(WORDS).synthesize("please no", Style(tone="calm"), "agent")


class Polite(Judge):
    """As in docs/extend.md, with options."""

    name, rubric_sha = "polite-1", "polite-1"

    def __init__(self, best: int = 5, words: tuple[str, ...] = ("please", "sorry"), strict: bool = False) -> None:
        self.best, self.words, self.strict, self.asked = best, words, strict, 0

    def judge(self, query, style, evidence):
        self.asked += 1
        return self.verdict(evidence, Score(self.best if set(self.words) & set(evidence.transcript.split()) else 2, ""))


class Says(S2SSystem):
    config_sha = "says-1"

    def __init__(self, answer) -> None:
        self.answer = answer

    def respond(self, queries, audios, sample):
        return [self.answer(query) for query in queries]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    about = {"factor": "sarcasm", "split": "test", "text": "we sold the house", "topic": "house"}
    queries = [{"id": f"q{i}", "styles": ("sincere", "sarcastic")} | about for i in range(2)]
    return beep_manifest(tmp_path_factory.mktemp("queries"), queries, WORDS)


def run(manifest, folder, judge, answer=lambda query: Answer(PLEASE)):
    ears = {"transcriber": BeepTranscriber(WORDS), "recognizer": BeepRecognizer()}
    return evaluate(manifest, {"own": Says(answer)}, judge, **ears, output=str(folder))


def test_an_answer_that_never_came_is_nobody_s_to_score(manifest, tmp_path):
    """Of four answers two time out: a judge that doesn't look at the status would give them 2, and a mean of 3.5."""

    def answer(query):
        return Answer(PLEASE) if query.label == "sincere" else Answer(None, status="timeout")

    cell = run(manifest, tmp_path, Polite(), answer)["systems"]["own"]["overall"]
    assert (cell["mean"], cell["n"], cell["n_failed"]) == (5, 2, 2)
    assert {v.status for v in read_jsonl(tmp_path / "verdicts.jsonl", Verdict) if v.score is None} == {"timeout"}


@pytest.mark.parametrize("options", [{"best": 3}, {"words": ("sorry",), "best": 5}, {"strict": True}])
def test_options_of_an_own_judge_tell_its_verdicts_apart(manifest, tmp_path, options):
    first = run(manifest, tmp_path, Polite())
    judge = Polite(**options)
    again = run(manifest, tmp_path, judge)
    assert judge.asked == 8 and first["judge_sha"] != again["judge_sha"]  # 4 answers, each for both styles
    wanted = 2 if "words" in options else options.get("best", 5)
    assert again["systems"]["own"]["overall"]["mean"] == wanted
    same = Polite(**options)
    run(manifest, tmp_path, same)
    assert same.asked == 0


class Rule:
    """What a judge of one's own holds: no part of the package."""

    def __init__(self, best: int, more: object = None) -> None:
        self.best, self.more = best, more


class Ruled(Polite):
    """As its rules say; in YAML they are objects with options of their own."""

    def __init__(self, rule: Rule, rules: list[Rule] | None = None) -> None:
        super().__init__()
        self.rule, self.rules = rule, rules

    def judge(self, query, style, evidence):
        self.asked += 1
        return self.verdict(evidence, Score(self.rule.best, ""))


def test_options_of_what_an_own_judge_holds_tell_its_verdicts_apart(manifest, tmp_path):
    """5 by the first rule, 3 by the second: verdicts of the first that were kept would still say 5."""
    first = run(manifest, tmp_path, Ruled(Rule(5)))
    again = run(manifest, tmp_path, Ruled(Rule(3)))
    assert again["systems"]["own"]["overall"]["mean"] == 3 and first["judge_sha"] != again["judge_sha"]
    same = Ruled(Rule(3))
    run(manifest, tmp_path, same)
    assert same.asked == 0
    assert part_sha(Ruled(Rule(3), [Rule(1)])) != part_sha(Ruled(Rule(3), [Rule(2)]))
    assert part_sha(Ruled({"a": Rule(3)})) not in {part_sha(Ruled({"a": Rule(2)})), part_sha(Ruled({"b": Rule(3)}))}
    assert part_sha(Ruled(Rule(3, Rule(1)))) != part_sha(Ruled(Rule(3, Rule(2))))


class Strict(LLMJudge):
    def __init__(self, llm, samples: int = 1, least: int = 3) -> None:
        super().__init__(llm, samples)
        self.least = least


class Briefed(ChatLLM):
    """A chat model as a user writes one: it has one name, whatever it is told beforehand."""

    name = "briefed"

    def __init__(self, briefing: str, batch_size: int = 1) -> None:
        self.briefing, self.batch_size, self.asked = briefing, batch_size, 0

    def complete(self, conversations, samples=None):
        return [Reply(None, "empty")] * len(conversations)


def test_options_of_an_own_chat_model_tell_the_verdicts_of_our_judge_apart():
    first = part_sha(LLMJudge(Briefed("Be strict.")))
    assert first == part_sha(LLMJudge(Briefed("Be strict.", batch_size=8))) != part_sha(LLMJudge(Briefed("Be kind.")))


def test_counters_samples_and_our_own_whole_numbers_do_not_tell_parts_apart():
    used = Polite()
    used.asked = 7
    assert part_sha(used) == part_sha(Polite()) and part_sha(Polite(words=["please", "sorry"])) == part_sha(Polite())
    llm = ScriptedLLM()
    assert part_sha(Strict(llm, 1)) == part_sha(Strict(llm, 3)) != part_sha(Strict(llm, 1, least=4))
    assert part_sha(LLMJudge(llm, 1)) == part_sha(LLMJudge(llm, 3))


def test_options_of_an_own_judge_tell_rewards_apart():
    def reward(best):
        return JudgeReward(Polite(best), BeepTranscriber(WORDS), BeepRecognizer()).config_sha

    assert reward(5) == reward(5) != reward(4)
    assert Short(2).config_sha == Short(2).config_sha != Short(3).config_sha


@pytest.mark.parametrize("score", [85, 0, -1.0])
def test_a_score_off_the_scale_is_refused(manifest, tmp_path, score):
    with pytest.raises(UserError, match=f"must be from 1 to 5, .*got {score:g} of Polite for own/q0-sincere/0"):
        run(manifest, tmp_path, Polite(score))


@pytest.mark.parametrize(("score", "mean"), [(np.float32(4), 4), (np.int64(3), 3), (np.float32("nan"), None)])
def test_a_score_of_numpy_is_a_score(manifest, tmp_path, score, mean):
    def evaluated():
        return run(manifest, tmp_path, Polite(score))["systems"]["own"]["overall"]["mean"]

    if mean is None:
        with pytest.raises(UserError, match="no_score 4"):
            evaluated()
    else:
        assert evaluated() == mean


class Thrice(Polite):
    samples = 3

    def judge(self, query, style, evidence):
        self.asked += 1
        return self.verdict(evidence, Score(2 + self.asked % 3, ""))


class Fewer(Polite):
    samples = 2

    def judge_all(self, queries, styles, evidence):
        return [[self.judge(*one)] for one in zip(queries, styles, evidence, strict=True)]


def test_an_own_judge_draws_its_samples(manifest, tmp_path):
    result = run(manifest, tmp_path, Thrice())
    assert result["systems"]["own"]["overall"]["mean"] == 3  # of 3, 4 and 2
    assert [v.sample for v in read_jsonl(tmp_path / "verdicts.jsonl", Verdict)] == [0, 1, 2] * 4
    resumed = Thrice()
    run(manifest, tmp_path, resumed)
    assert resumed.asked == 0
    with pytest.raises(UserError, match=r"Fewer.judge_all must give 2 verdicts \(its `samples`\) on each of 4"):
        run(manifest, tmp_path / "fewer", Fewer())


@pytest.mark.parametrize(("field", "part"), [("name", Polite), ("rubric_sha", Polite), ("config_sha", Says)])
def test_a_part_that_does_not_say_who_it_is_is_refused_before_it_is_asked(monkeypatch, manifest, tmp_path, field, part):
    monkeypatch.setattr(part, field, None)
    with pytest.raises(UserError, match=f"{part.__name__} must have a text {field}"):
        run(manifest, tmp_path, Polite())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("samples", [PLEASE.samples[None], torch.tensor(PLEASE.samples), PLEASE.samples.tolist()])
def test_samples_that_are_no_row_are_one_line(manifest, tmp_path, samples):
    with pytest.raises(UserError, match=r"must be a NumPy array \[N\]; got (ndarray \[1, |Tensor \[|list \[)"):
        run(manifest, tmp_path, Polite(), lambda query: Answer(Audio(samples, 16_000)))


class Short(Reward):
    def __init__(self, seconds: int, given=None) -> None:
        self.seconds, self.given = seconds, given

    def score(self, batch, responses):
        return self.given


@pytest.mark.parametrize("given", [torch.ones(2), torch.ones(4, 1), torch.tensor(1.0), [1.0] * 4, None])
def test_a_reward_without_a_number_for_each_response_is_refused(given):
    responses = [SpokenResponse(PLEASE, "please", True, ())] * 4
    with pytest.raises(UserError, match=r"Short.score must give a tensor \[4\]"):
        rewards_of(Short(2, given), SimpleNamespace(), responses)
    assert rewards_of(Short(2, torch.tensor([0, 1, 1, 0])), SimpleNamespace(), responses).tolist() == [0, 1, 1, 0]


def test_a_folder_s_damaged_and_nameless_recordings_are_left_out_and_counted(tmp_path):
    write_audio(tmp_path / "good one.wav", PLEASE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF of no sound")
    (tmp_path / "empty.wav").write_bytes(b"")
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        names = ("good one.wav", "broken.wav", "empty.wav", "", ".")
        rows = [(name, "we sold the house last week", "sad") for name in names]
        csv.writer(file).writerows([("file", "text", "emotion"), *rows])
    found = import_speech("folder", str(tmp_path), str(tmp_path / "queries.jsonl"))
    assert found["counts"] == {"kept": 1, "unheard": 2, "no_audio": 2}
    assert [q.id for q in read_jsonl(tmp_path / "queries.jsonl", Query)] == ["folder-good one"]


def test_an_unknown_option_of_an_own_class_is_told_with_its_place(tmp_path, monkeypatch):
    (tmp_path / "own_rule.py").write_text(
        "from lightning_paras2s.judging.judges import Judge\n\n\n"
        "class Rule(Judge):\n    def __init__(self, levels=5, words=()):\n        pass\n\n\n"
        "class Any(Judge):\n    def __init__(self, **options):\n        pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tmp_path / "evaluate.yaml"

    def checked(judge):
        config.write_text(f"judge: {judge}\n")
        return check("evaluate", ["--config", str(config)], files=False)

    wanted = r"judge in .*evaluate.yaml must .*Rule has no option levls; did you mean levels\? it has levels, w"
    with pytest.raises(UserError, match=wanted):
        checked("{class_path: own_rule.Rule, init_args: {levls: 4}}")
    for taken in ("Rule, init_args: {levels: 4}", "Rule, init_args: {words.0: x}", "Any, init_args: {levls: 4}"):
        checked(f"{{class_path: own_rule.{taken}}}")
