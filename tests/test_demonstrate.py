"""`demonstrate`: answers that a chat model writes, badly too, and a voice speaks; flaws are counted, nothing is paid
twice."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from loopback import Loopback, Sent, completion

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.queries import styles
from lightning_paras2s.bench.queries.demonstrate import demonstrate
from lightning_paras2s.bench.queries.mine import mine
from lightning_paras2s.bench.queries.scripted import ScriptedLLM
from lightning_paras2s.data.open_text import read_open
from lightning_paras2s.data.sources import ManifestDialogues
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.recognizers import StyleRecognizer
from lightning_paras2s.hearing.transcribers import Transcriber
from lightning_paras2s.servers.chat import OpenAIChat
from lightning_paras2s.servers.remote import Patience
from lightning_paras2s.speaking.remote import RemoteSynthesizer
from lightning_paras2s.speaking.synthesizers import Voice
from lightning_paras2s.types import SPLITS, TONES, Audio, Query, Response, Style, read_jsonl, to_json

TEXT = "The train home leaves in five minutes."
GOOD = "I will keep an eye on the clock for you."


def query(name: str = "q-sad", style: str = "sad", split: str = "train", pair: str = "q", text: str = TEXT) -> Query:
    labels = {"emotion": style, "age": "adult", "gender": "female"}
    return Query(name, pair, "emotion", split, text, labels, "Travel", f"audio/{name}.wav")


class Beeps(RemoteSynthesizer):
    """Says a text as a tone whose pitch is its tone's place, whose level tells how well: a plan of what to say badly.

    `faults`: (text, seed) -> garbled (soft), misfit (another tone's pitch), silent, or a server's status.
    """

    name, sample_rate, usd_per_minute, concurrency = "beeps", 16_000, 0.6, 3

    config_sha = "beeps-1"  # its faults don't make it another voice

    def __init__(self, faults=None, always: str = "") -> None:
        self.faults, self.always, self.asked = faults or {}, always, []

    def voices(self, split):
        return {"v": Voice("v", "female")}

    def try_synthesize(self, text, style: Style, voice, seed=0):
        self.asked.append((text, style.tone, voice, seed))
        fault = self.faults.get((text, seed), self.always)
        if fault.startswith(("http", "timeout")):
            return None, fault
        place = TONES.index(style.tone) + (fault == "misfit")
        level = {"garbled": 0.2, "silent": 0.0}.get(fault, 0.5)
        phase = 2 * np.pi * 200 * (1 + place) * np.arange(16_000 + 160 * seed) / 16_000
        samples = level * np.sin(phase + 0.3)  # no sample is 0
        return Audio(samples.astype(np.float32), 16_000), "ok"


class Ear(Transcriber, StyleRecognizer):
    """Hears a beep's pitch as its tone; its words are those that it is given for the loud, others for the soft."""

    name = "ear"

    def __init__(self, words: str = GOOD) -> None:
        self.words, self.count = words, 0

    def write_down(self, audios):
        self.count += len(audios)
        return [self.words if np.abs(a.samples).max() > 0.3 else "the rain in spain" for a in audios]

    def recognize(self, audios, role):
        assert role == "response"
        crossings = [np.mean(np.diff(np.sign(a.samples)) != 0) * a.sample_rate / 400 for a in audios]
        return [Style(tone=TONES[min(round(c) - 1, len(TONES) - 1)]) for c in crossings]


class Says:
    """A chat model: replies by the query's text, the same each time; counts what it was asked."""

    def __init__(self, replies) -> None:
        from lightning_paras2s.servers.chat import ChatLLM, Reply

        outer, self.asked = self, []

        class Model(ChatLLM):
            name = "says"

            def complete(self, conversations):
                texts = [styles.fields_of(styles.DEMONSTRATION_PROMPT, c[-1]["content"])["text"] for c in conversations]
                outer.asked += texts
                found = [replies.get(text, f"Response: {GOOD}\nTone: calm") for text in texts]
                return [r if isinstance(r, Reply) else Reply(r) for r in found]

        self.model = Model()


def write_manifest(folder: Path, queries: list[Query]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for q in queries:
        write_audio(folder / q.audio, Audio(np.full(800, 0.1, np.float32), 16_000))
    (folder / "queries.jsonl").write_text("".join(to_json(q) + "\n" for q in queries))
    return str(folder / "queries.jsonl")


def numbered(count: int, split: str = "train") -> list[Query]:
    return [query(f"{split}-{i}", "sad", split, f"{split}-p{i}", f"Text number {i} is said.") for i in range(count)]


def test_the_best_candidate_becomes_the_answer_that_sft_reads(tmp_path):
    made = [write_manifest(tmp_path / split, numbered(2, split)) for split in ("train", "val")]
    voice = Beeps({(GOOD, 0): "garbled", (GOOD, 1): "misfit"})
    table = demonstrate(made, str(tmp_path / "out"), Ear(), Ear(), Says({}).model, voice, "v", seed=0)
    assert table["statuses"] == {"ok": 4} and table["answered"] == 4 and table["wer"] == 0.0
    assert Counter(seed for *_, seed in voice.asked) == {0: 4, 1: 4, 2: 4}  # the third is right: no more are asked for
    out = tmp_path / "out"
    answers = read_jsonl(out / "answers.jsonl", Response)
    assert {row.sample for row in answers} == {2} and {row.text for row in answers} == {GOOD}
    # one in three candidates has another tone; the garbled third agrees in tone alone
    assert table["tone_share_of_candidates"] == pytest.approx(2 / 3)
    source = ManifestDialogues(str(out / "train.jsonl"), str(out / "val.jsonl"), str(out / "answers.jsonl"))
    for split in ("train", "val"):
        found = source.dialogues(split, "")
        assert [d.query.id for d in found] == [f"{split}-0", f"{split}-1"]
        assert all(d.agent.text == GOOD and d.agent.seconds == pytest.approx(1.02) and d.user.seconds for d in found)


def test_every_way_to_fail_is_a_status_when_it_is_the_only_fault(tmp_path):
    """One query for each of the issue's ways, and one that is answered."""
    from lightning_paras2s.servers.chat import Reply

    words = {
        "refused": "I'm sorry, but I can't assist with that.",
        "other_language": "Response: Das tut mir leid, ich helfe dir gern dabei.\nTone: calm",
        "repeats_query": "Response: Text number 2 is said.\nTone: calm",
        "leaks_label": "Response: You sound sad, so take your time.\nTone: calm",
        "unparsed": "Sure!",
        "other_tone": f"Response: {GOOD}\nTone: gloomy",
        "length": "Response: No.\nTone: calm",
        "truncated": Reply(None, "truncated"),
        "timeout": Reply(None, "timeout"),
    }
    spoken = {"wer": "garbled", "tone": "misfit", "tts_silent": "silent", "tts_http_500": "http_500"}
    queries = numbered(len(words) + len(spoken) + 1)
    replies = {q.text: reply for q, reply in zip(queries, words.values(), strict=False)}
    said = {q.text: f"Take number {i} as it comes." for i, q in enumerate(queries[len(words) :])}
    replies |= {text: f"Response: {answer}\nTone: calm" for text, answer in said.items()}
    faults = {
        (answer, n): fault for answer, fault in zip(said.values(), spoken.values(), strict=False) for n in range(3)
    }

    class Hears(Ear):
        def write_down(self, audios):
            return ["" if np.abs(a.samples).max() < 0.3 else "take number as it comes" for a in audios]

    options = {"max_wer": 0.25, "candidates": 3}  # the number is one word of six
    manifest, out = write_manifest(tmp_path / "in", queries), tmp_path / "out"
    table = demonstrate([manifest], str(out), Hears(), Hears(), Says(replies).model, Beeps(faults), "v", **options)
    wanted = dict.fromkeys([*words, *spoken, "ok"], 1)
    assert table["statuses"] == wanted
    assert [r.query_id for r in read_jsonl(out / "answers.jsonl", Response)] == [queries[-1].id]
    assert [q.id for q in read_jsonl(out / "train.jsonl", Query)] == [queries[-1].id]
    # the next run asks again for what never came, and for nothing else
    llm, voice = Says(replies), Beeps()
    again = demonstrate([manifest], str(out), Hears(), Hears(), llm.model, voice, "v", **options)
    assert llm.asked == [queries[list(words).index("timeout")].text]
    assert {text for text, *_ in voice.asked} == {said[queries[len(words) + 3].text]}
    assert again["statuses"] == {k: n for k, n in wanted.items() if k != "tts_http_500"} | {"ok": 2}


def test_a_candidate_is_made_anew_when_its_words_or_its_voice_changed(tmp_path):
    manifest, out = write_manifest(tmp_path / "in", numbered(3)), str(tmp_path / "out")
    first, again, other = Beeps(), Beeps(), Beeps()
    demonstrate([manifest], out, Ear(), Ear(), Says({}).model, first, "v")
    demonstrate([manifest], out, Ear(), Ear(), Says({}).model, again, "v")
    assert len(first.asked) == 3 and again.asked == []
    demonstrate([manifest], out, Ear(), Ear(), Says({}).model, other, "w")
    assert len(other.asked) == 3
    heard = Ear()
    heard.config_sha = "another ear"
    demonstrate([manifest], out, heard, heard, Says({}).model, Beeps(), "w")
    assert heard.count == 3


class Killed(BaseException):
    """As SIGKILL: nobody catches it."""


def test_killed_at_any_step_it_ends_the_same_and_nothing_is_made_twice(tmp_path, monkeypatch):
    """Cut before every single write and request of a run, one after the other, each time a bit later."""
    from lightning_paras2s.bench.queries import demonstrate_speech, demonstrate_words
    from lightning_paras2s.running import logs

    manifest = write_manifest(tmp_path / "in", numbered(6))
    bad = {"Text number 1 is said.": "Sure!"}

    def run(out: Path, voice: Beeps, llm: Says) -> dict:
        voice.concurrency = 1
        return demonstrate([manifest], str(out), Ear(), Ear(), llm.model, voice, "v", candidates=3)

    faults = {(GOOD, 0): "misfit"}
    whole, voice, llm = tmp_path / "whole", Beeps(faults), Says(bad)
    wanted = run(whole, voice, llm)
    left, steps = [0], Counter()

    def cut(module, name):
        plain = getattr(module, name)

        def call(*args, **options):
            left[0] -= 1
            steps[name] += 1
            if left[0] <= 0:  # nor does another thread write after that
                raise Killed
            return plain(*args, **options)

        monkeypatch.setattr(module, name, call)

    for module, name in [(demonstrate_words, "append_jsonl"), (logs, "append_jsonl"), (demonstrate_speech, "speak"),
                         (demonstrate_speech, "write_audio"), (demonstrate_speech, "hear")]:  # fmt: skip
        cut(module, name)
    out, cut_voice, cut_llm, kills = tmp_path / "cut", Beeps(faults), Says(bad), 0
    while True:
        left[0] = 2 if kills % 2 else 5  # never far
        try:
            table = run(out, cut_voice, cut_llm)
            break
        except Killed:
            kills += 1
            assert kills < 100
    assert kills > 10, kills
    assert {k: v for k, v in table.items() if k not in ("answers", "splits", "resumed")} == {
        k: v for k, v in wanted.items() if k not in ("answers", "splits", "resumed")
    }
    for name in ("answers.jsonl", "train.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    # what was paid: each request once, but for the one that was on its way when the process died
    paid = 2 * (6 - 1)  # one reply is bad, and of the others the first candidate is a misfit
    in_flight = steps["write_audio"] - paid
    assert len(voice.asked) == paid and len(cut_voice.asked) <= paid + in_flight
    assert len(set(cut_voice.asked)) == len(set(voice.asked))


def test_no_more_is_spent_than_max_usd_over_all_runs(tmp_path):
    """A beep lasts 1 s and costs 0.01; at most one of 60 s is reserved, 0.6."""
    manifest, out = write_manifest(tmp_path / "in", numbered(8)), str(tmp_path / "out")

    def run(max_usd):
        voice = Beeps()
        voice.concurrency = 1
        return demonstrate([manifest], out, Ear(), Ear(), Says({}).model, voice, "v", max_usd=max_usd), len(voice.asked)

    dry = demonstrate([manifest], out, Ear(), Ear(), Says({}).model, Beeps(), "v", candidates=4, dry_run=True)
    assert (dry["queries"], dry["requests"]) == (8, 8) and not Path(out).exists()
    # 8 queries x 4 candidates x 150 characters, a tenth of a second each
    assert dry["usd"] == pytest.approx(8 * 4 * 15 / 60 * 0.6) and dry["speech_hours"] == pytest.approx(0.13, abs=0.005)
    first, asked = run(0.635)
    assert asked == 4 and first["statuses"] == {"ok": 4, "tts_max_usd": 4} and first["usd"] == pytest.approx(0.04)
    second, asked = run(0.635)
    assert asked == 0 and second["statuses"] == first["statuses"]
    third, asked = run(0.655)
    assert asked == 2 and third["usd"] == pytest.approx(0.06)
    dry = demonstrate([manifest], out, Ear(), Ear(), Says({}).model, Beeps(), "v", candidates=4, dry_run=True)
    assert dry["usd"] == pytest.approx(2 * 4 * 15 / 60 * 0.6, abs=0.005) and dry["requests"] == 0


def test_a_voice_for_each_tone_speaks_when_its_tone_lies_in_the_speaker(tmp_path):
    manifest, voice = write_manifest(tmp_path / "in", numbered(1)), Beeps()
    demonstrate([manifest], str(tmp_path / "out"), Ear(), Ear(), Says({}).model, voice, "v", {"calm": "calm-one"})
    assert [row[2] for row in voice.asked] == ["calm-one"]


@pytest.mark.parametrize(
    "options, told",
    [
        ({"voice": "agent"}, "beeps needs the name of a voice"),
        ({"voices": {"gloomy": "v"}}, "voices must name tones"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"max_wer": -1.0}, "max_wer must be"),
        ({"out": "in"}, "out must not hold the manifests"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_nothing(options, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_manifest(Path("in"), numbered(1))
    Path("in/queries.jsonl").rename("in/train.jsonl")
    given = {"out": "out", "voice": "v", "transcriber": Ear(), "recognizer": Ear()} | options
    with pytest.raises(UserError, match=told):
        demonstrate(["in/train.jsonl"], llm=Says({}).model, synthesizer=Beeps(), **given)
    assert not Path("out").exists() and sorted(p.name for p in Path("in").iterdir()) == ["audio", "train.jsonl"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"factor": "", "styles": {}}, "must have every query's style; got none of 'train-0'"),
        ({"split": "dev"}, "the split of 'train-0' must be one of train, val, test; got 'dev'"),
    ],
)
def test_a_query_that_can_not_be_demonstrated_is_one_line(changes, told, tmp_path):
    """Speech that nobody labelled, as `import_speech --corpus recordings` writes it; a split without a list."""
    manifest = write_manifest(tmp_path / "in", [replace(q, **changes) for q in numbered(2)])
    with pytest.raises(UserError, match=told):
        demonstrate([manifest], str(tmp_path / "out"), Ear(), Ear(), Says({}).model, Beeps(), "v")
    assert not (tmp_path / "out").exists()


def test_two_manifests_may_not_share_an_id(tmp_path):
    made = [write_manifest(tmp_path / name, numbered(1)) for name in "ab"]
    with pytest.raises(UserError, match="got 'train-0' twice"):
        demonstrate(made, str(tmp_path / "out"), Ear(), Ear(), Says({}).model, Beeps(), "v")


def bad_at_first(plausible, seen: dict[str, set[bytes]]):
    """A chat server: every prompt is answered badly once, in one of the ways in which servers and models fail, and well
    from then on; the tests' prompts and the answers' alike."""
    ways = [
        Sent(500, b""),
        Sent(429, b"", {"Retry-After": "0"}),
        Sent(200, completion("half of an answer")[:-20]),
        Sent(200, completion("Response: hm", "stop"), {}, 30),
    ]

    def answer(path, body, times):
        prompt = json.loads(body)["messages"][0]["content"]
        if times == 1:
            seen["bad"].add(body)
            return ways[sum(body) % len(ways)]
        seen["good"].add(body)
        return Sent(200, completion(plausible.complete([[{"role": "user", "content": prompt}]])[0].text))

    return answer


def test_a_server_that_answers_badly_at_first_leads_to_the_same_records(tmp_path):
    """`mine` with its three tests, then `demonstrate`: over HTTP as with the scripted model in process."""
    scripted, seen = ScriptedLLM(decoys=2), {"bad": set(), "good": set()}

    def through(folder: Path, llm) -> dict[str, bytes]:
        mined = {"factors": ["age", "sarcasm"], "splits": ["val"], "count": 12}
        mine(str(folder / "mined"), llm, **mined)
        rows = [json.loads(line) for line in (folder / "mined/scripts.jsonl").read_text().splitlines()]
        queries = [
            Query(f"{r['id']}-{s}", r["id"], r["factor"], "val", r["text"], {r["factor"]: s}, r["topic"], "audio/a.wav")
            for r in rows
            for s in r["styles"]
        ]
        manifest = write_manifest(folder / "in", queries)
        ear = Ear()
        ear.write_down = lambda audios: [""] * len(audios)  # so that candidates are many
        demonstrate([manifest], str(folder / "out"), ear, ear, llm, Beeps(), "v", candidates=2, max_wer=1.0)
        written = [json.loads(line) for line in (folder / "out/written.jsonl").read_text().splitlines()]
        kept = {"written": [{k: v for k, v in r.items() if k not in ("cost_usd", "inputs")} for r in written]}
        names = ("mined/prompts.jsonl", "mined/candidates.jsonl", "mined/scripts.jsonl", "out/answers.jsonl")
        return kept | {name: (folder / name).read_bytes() for name in (*names, "out/val.jsonl")}

    with Loopback(bad_at_first(scripted, seen)) as server:
        options = {"base_url": server.url, "cache_dir": str(tmp_path / "cache"), "patience": Patience(4, 5, 0.01, 0.02)}
        found = through(tmp_path / "server", OpenAIChat("gpt-4.1", **options))
        asked = len(server.requests)
        again = through(tmp_path / "again", OpenAIChat("gpt-4.1", **options))
        assert len(server.requests) == asked  # all was kept
    wanted = through(tmp_path / "plain", scripted)
    assert found == wanted == again and len(wanted["written"]) > 20
    assert seen["good"] == seen["bad"] and len(seen["good"]) > 100


def test_synthesize_speaks_the_open_set_by_its_name():
    from lightning_paras2s.bench.queries.scripts import load_scripts

    scripts = load_scripts("open", "test", ["gender"], 2, 0)
    known = {p.id: p for p in read_open("gender", "test")}
    assert len(scripts) == 2 and all(s.text == known[s.id].text and s.split in SPLITS for s in scripts)
