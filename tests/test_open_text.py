"""The open text set: it certifies itself, and each thing that must not be in it is told."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil

import pytest

from lightning_paras2s.bench.queries.styles import TOPICS
from lightning_paras2s.data import open_text
from lightning_paras2s.data.open_text import Answer, OpenPrompt, certify, main, prompt_faults, read_open, split_faults
from lightning_paras2s.errors import UserError

GOOD = OpenPrompt(
    id="emotion-test-0001",
    factor="emotion",
    split="test",
    topic="Travel",
    subject="night ferry",
    text="Mr. Lee booked us on the night ferry. Remind me to pack tonight.",
    styles=("happy", "fear"),
    good={"happy": "shares the joy", "fear": "calms"},
    answers={
        "happy": Answer("How exciting, a whole night at sea! I'll remind you to pack at eight.", "cheerful"),
        "fear": Answer("The crossing is calm this week, so breathe easy. The reminder is set.", "calm"),
    },
    neutral_because="Ferries please some and frighten others.",
)


def changed(**values) -> OpenPrompt:
    return dataclasses.replace(GOOD, **values)


def written(folder, prompts) -> None:
    """Files as a writer of JSON lines makes them, without their module."""
    for prompt in prompts:
        with (folder / f"{prompt.factor}.{prompt.split}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(prompt), ensure_ascii=False) + "\n")


def test_the_published_set_certifies_itself():
    assert certify().faults == []


def test_the_published_checksums_are_those_of_the_files():
    lines = (open_text.FOLDER / open_text.SUMS).read_text().splitlines()
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((open_text.FOLDER / name).read_bytes()).hexdigest() == digest
    assert {line.split("  ")[1] for line in lines} == {path.name for path in open_text.FOLDER.glob("*.jsonl")}


@pytest.mark.parametrize("factor", ["emotion", "sarcasm"])
def test_a_test_split_has_300_prompts_over_all_twenty_topics_of_the_paper(factor):
    prompts = read_open(factor, "test")
    assert len(prompts) == 300
    assert len({p.topic for p in prompts}) == 20
    assert {p.topic for p in prompts} == {t for names in TOPICS[factor].values() for t in names}


def test_a_good_prompt_has_no_fault():
    assert prompt_faults(GOOD) == []


@pytest.mark.parametrize(
    "values, told",
    [
        ({"text": "The ferry leaves at nine tonight"}, "6 words, must have 7 to 30"),
        ({"text": "The ferry leaves at nine tonight. We packed. It is late now."}, "one or two whole sentences"),
        ({"text": "The night ferry leaves at nine o'clock tonight"}, "one or two whole sentences"),
        ({"text": "Is it AI that books the night ferry for us tonight?"}, "must not say 'ai'"),
        ({"subject": "the night ferry to Greece"}, "5 words, must have 1 to 4"),
        ({"topic": "Boats"}, "one of the paper's; got 'Boats'"),
        ({"styles": ("fear", "angry")}, "two that contrast"),
        ({"styles": ("happy", "sad")}, "an entry a style"),
        ({"good": {"happy": "shares the joy"}}, "an entry a style"),
        ({"good": {"happy": "word " * 12 + "word", "fear": "calms"}}, "the good has 13 words"),
        ({"answers": {"happy": Answer("How nice!", "calm"), "fear": GOOD.answers["fear"]}}, "2 words, must have 10"),
        ({"answers": {style: GOOD.answers["happy"] for style in GOOD.styles}}, "reference answers must differ"),
        ({"neutral_because": "so " * 13}, "the because has 13 words"),
    ],
)
def test_a_fault_of_a_prompt_is_told(values, told):
    assert any(told in fault for fault in prompt_faults(changed(**values)))


def test_a_first_word_too_common_is_told():
    openers = ["When", "Play", "Read"] + ["My"]  # one of four: 25 %, over 12 %
    prompts = [changed(text=f"{word} uncle and aunt have booked the night ferry to the island.") for word in openers]
    assert any("'when' has 0.25" in fault for fault in split_faults(prompts, "emotion", "test"))


def test_a_mean_length_far_from_the_papers_is_told():
    prompts = [changed(text="We booked the night ferry for tomorrow.")]  # 7 words; the paper's 17.3, 15 % either way
    assert any("mean words must be within" in fault for fault in split_faults(prompts, "emotion", "test"))


def test_what_prompts_share_is_told(tmp_path):
    twin = changed(split="val", text="Mr. Lee booked us on the night train. Remind me to pack tonight.")
    written(tmp_path, [GOOD, twin])
    faults = certify(tmp_path).faults
    assert "emotion-test-0001: an id must be unique; 2 have it" in faults
    assert "emotion: a subject must be unique; 2 have 'night ferry'" in faults
    assert "emotion-test-0001, emotion-test-0001: texts must not be near duplicates" in faults
    assert any("in its own file" in fault for fault in faults)  # the id says test, the file val


def test_a_topic_that_test_lacks_and_a_split_that_is_not_there_are_told(tmp_path):
    written(tmp_path, [GOOD])
    certificate = certify(tmp_path)
    assert sum("must be present" in fault for fault in certificate.faults) == 19  # all but Travel
    assert "emotion.test: 1 prompts of 300" in certificate.missing
    assert len(certificate.missing) == 12  # four factors, three splits


def test_a_copy_is_certified_and_a_changed_one_is_not(tmp_path, capsys):
    copy = tmp_path / "open"
    shutil.copytree(open_text.FOLDER, copy)
    assert main([str(copy)]) == 0
    path = copy / "emotion.test.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("roommate", "flatmate"), encoding="utf-8")
    assert main([str(copy)]) == 2
    assert "emotion.test.jsonl: its checksum must be that of version" in capsys.readouterr().out
    (copy / open_text.SUMS).write_text(open_text.checksums(copy))  # a copy can't vouch for itself
    assert main([str(copy)]) == 2


def test_writing_checksums_is_refused_when_the_set_has_another_fault(tmp_path):
    written(tmp_path, [GOOD])
    assert main([str(tmp_path), "--write"]) == 2
    assert not (tmp_path / open_text.SUMS).exists()


@pytest.mark.parametrize(
    "line, told",
    [
        ("{", "got"),
        ("[]", "got"),
        ('{"id": "emotion-test-0001"}', "fields ['id']"),
        (json.dumps({**dataclasses.asdict(GOOD), "good": "calms"}), "got"),
        (json.dumps({**dataclasses.asdict(GOOD), "text": " spaced "}), "no trimmed text"),
        (json.dumps({**dataclasses.asdict(GOOD), "answers": {"happy": {"text": "Yes."}}}), "got"),
    ],
)
def test_a_line_that_is_no_record_is_one_clear_error(tmp_path, line, told):
    (tmp_path / "emotion.test.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match="emotion.test.jsonl:1: a line must be a record") as error:
        read_open("emotion", "test", tmp_path)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_an_empty_folder_is_one_clear_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "must hold FACTOR.SPLIT.jsonl" in capsys.readouterr().err
    with pytest.raises(UserError, match="must have emotion.test.jsonl"):
        read_open("emotion", "test", tmp_path)
