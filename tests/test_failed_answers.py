"""An answer that never came says nothing of how a system answers: it counts as failed, and changes no other number."""

from __future__ import annotations

import pytest

from lightning_paras2s.bench.summary import judged, summarise_system
from lightning_paras2s.types import Evidence, Query, Response

OTHERS = ("response_contrast", "response_contrast_ci95", "tone_change", "names_topic", "writes_topic", "wer")


def query(pair: int, style: str) -> Query:
    return Query(f"{pair}-{style}", f"p{pair}", "emotion", "test", "Where is the oil?", {"emotion": style}, "", "")


def asked(failing: dict[tuple[int, int], str], said: str = "the oil is here", pairs: int = 40) -> list:
    """Judged answers of a system that says one thing to both halves; `failing`: (pair, half) -> the answer's status."""
    rows = []
    for pair in range(pairs):
        for half, style in enumerate(("happy", "sad")):
            asked = query(pair, style)
            name, status = f"s/{asked.id}/0", failing.get((pair, half), "ok")
            came = status == "ok"
            heard = Evidence(name, said, 0.0, "calm") if came else Evidence(name, status=status)
            answer = Response(asked.id, "s", text=said if came else None, status=status)
            score = {name: [3.0 if came else None]}
            rows.append(judged(asked, [name], {name: heard}, score, score, {name: answer}))
    return rows


@pytest.mark.parametrize("status", ["timeout", "bad_query", "http_500", "missing", "program_error"])
def test_failed_answers_raise_no_contrast_and_lower_no_topic(status):
    """A system deaf to style has contrast 0, however many second halves failed; what it says names the topic."""
    whole, half = asked({}), asked({(pair, 1): status for pair in range(20)})
    before, after = summarise_system(whole)["overall"], summarise_system(half)["overall"]
    assert (before["response_contrast"], before["tone_change"], before["names_topic"]) == (0, 0, 1)
    assert after["n_failed"] == 20
    assert {name: after[name] for name in OTHERS} == {name: before[name] for name in OTHERS}


def test_a_system_none_of_whose_second_halves_came_has_no_contrast():
    found = summarise_system(asked({(pair, 1): "timeout" for pair in range(40)}))["overall"]
    assert found["response_contrast"] is None and found["tone_change"] is None and found["names_topic"] == 1


def test_silence_is_heard_and_names_no_topic():
    """It says no words that could be compared with the other half's, and has no tone."""
    found = summarise_system(asked({(pair, 1): "silent" for pair in range(20)}))["overall"]
    assert (found["response_contrast"], found["tone_change"], found["names_topic"]) == (0, 0, 0.75)  # 60 of 80


def test_speech_that_the_ear_does_not_know_is_compared_with_nothing():
    """What it takes for words is noise, which differs from half to half."""
    halves = [query(0, style) for style in ("happy", "sad")]
    heard = {f"s/{q.id}/0": Evidence(f"s/{q.id}/0", q.id, 0.9, q.id, status="foreign_speech") for q in halves}
    found = summarise_system([judged(q, [f"s/{q.id}/0"], heard, {}, {}) for q in halves])["overall"]
    assert found["response_contrast"] is None and found["tone_change"] is None and found["names_topic"] is None


def test_a_tone_that_the_ear_did_not_tell_is_no_change_of_tone():
    rows = asked({}, pairs=2)
    heard = {"s/0-happy/0": Evidence("s/0-happy/0", "the oil is here", 0.0, "", status="no_tone")}
    rows[0] = judged(query(0, "happy"), list(heard), heard, {}, {})
    found = summarise_system(rows)["overall"]
    assert (found["response_contrast"], found["tone_change"], found["names_topic"]) == (0, 0, 1)


def test_the_first_sample_that_came_stands_for_what_was_heard():
    heard = {"s/q/0": Evidence("s/q/0", status="timeout"), "s/q/1": Evidence("s/q/1", "the oil", 0.0, "calm")}
    row = judged(query(0, "happy"), list(heard), heard, {}, {})
    assert (row.transcript, row.tone, row.topic, row.heard) == ("the oil", "calm", 1, True)
