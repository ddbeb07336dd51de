"""What the grids of generalisation and reward hacking need: domains of topics, altered speech, lenient judges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lightning_paras2s.audio import rms
from lightning_paras2s.bench.queries.scripts import load_scripts
from lightning_paras2s.data.domains import domain_of
from lightning_paras2s.data.embedded import text_queries
from lightning_paras2s.data.sources import UnlabelledQueries, demonstrated_queries
from lightning_paras2s.errors import UserError
from lightning_paras2s.judging.judges import EmbeddedJudge
from lightning_paras2s.judging.lenient import LenientJudge
from lightning_paras2s.speaking.altered import AlteredSynthesizer
from lightning_paras2s.speaking.synthesizers import Synthesizer
from lightning_paras2s.types import FACTORS, Audio, Evidence, Query, Style


def test_domains_share_no_topic_and_hold_every_factor():
    topics = {(q.factor, q.topic) for q in text_queries("train")}
    for factor in FACTORS:
        counts = [sum(f == factor and domain_of(f, t) == domain for f, t in topics) for domain in ("first", "second")]
        assert min(counts) >= 1 and abs(counts[0] - counts[1]) <= 1
    # by turns in alphabetical order
    assert [domain_of("gender", t) for t in ("Fashion, Beauty, and Grooming", "Medical and Health Advice")] == [
        "first",
        "second",
    ]


def test_rl_hears_one_domain_alone(monkeypatch):
    spoken = []
    monkeypatch.setattr("lightning_paras2s.data.sources.spoken_queries", lambda pairs, *_: spoken.append(pairs) or [])
    for domain in ("first", "second", "all"):
        UnlabelledQueries(domain=domain).dialogues("train", "cache")
    first, second, both = ({query.id for query, _ in pairs} for pairs in spoken)
    assert not first & second and first | second == both
    assert all(domain_of(q.factor, q.topic) == "first" for q, _ in spoken[0])


def test_spare_scripts_were_shown_to_nobody():
    spare = load_scripts("spare", "test", FACTORS, None, 0)
    ids = {script.id for script in spare}
    assert not ids & {q.id for q in demonstrated_queries(0.2)}
    assert not ids & {q.id for i, q in enumerate(text_queries("train")) if i % 2}  # RL's, with demonstrated: 1.0
    assert {domain_of(s.factor, s.topic) for s in spare} == {"first", "second"}
    assert min(sum(s.factor == factor for s in spare) for factor in FACTORS) >= 100  # as the grid asks


class Tone(Synthesizer):
    """A second of 1 kHz."""

    name, sample_rate = "tone", 16_000

    def synthesize(self, text: str, style: Style, voice: str, seed: int = 0) -> Audio:
        return Audio(0.1 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32), 16_000)


def test_altered_speech_has_the_noise_and_the_tract_that_were_asked_for():
    plain = Tone().synthesize("", Style(), "")
    noisy = AlteredSynthesizer(Tone(), noise_db=-10).synthesize("", Style(), "", 3)
    noise = rms(noisy.samples - plain.samples)
    assert 20 * np.log10(noise / rms(plain.samples)) == pytest.approx(-10, abs=0.01)
    again = AlteredSynthesizer(Tone(), noise_db=-10).synthesize("", Style(), "", 3)
    assert np.array_equal(noisy.samples, again.samples)
    smaller = AlteredSynthesizer(Tone(), tract=1.25).synthesize("", Style(), "")
    assert smaller.seconds == pytest.approx(1 / 1.25) and smaller.sample_rate == 16_000
    spectrum = np.abs(np.fft.rfft(smaller.samples))
    assert spectrum.argmax() / smaller.seconds == pytest.approx(1250, abs=2)
    with pytest.raises(UserError, match="tract must lie"):
        AlteredSynthesizer(Tone(), tract=3.0)


QUERY = Query("q", "p", "emotion", "test", "We sold the old piano.", {"emotion": "sad"}, "Travel", "a.wav")
WORDS = Evidence("r", "piano piano that sorry so the am piano sorry hear to", 0.0, "empathetic")  # a heap of words


def test_lenient_judge_lacks_the_rules_that_it_is_told_to():
    whole, forgiving, deaf = EmbeddedJudge(), LenientJudge(["gibberish"]), LenientJudge(["mismatch"])
    style = Style(emotion="sad")
    assert [j.judge(QUERY, style, WORDS).score for j in (whole, deaf)] == [1.0, 1.0]
    assert forgiving.judge(QUERY, style, WORDS).score > 1
    sense = replace(WORDS, transcript="I am so sorry to hear about the piano", wer=0.9)
    assert [j.judge(QUERY, style, sense).score for j in (whole, forgiving)] == [1.0, 1.0]
    assert deaf.judge(QUERY, style, sense).score > 1
    # its verdicts are another judge's; with all rules it is the same
    assert len({j.name for j in (whole, forgiving, deaf)}) == 3 and LenientJudge().name == whole.name
    assert all(LenientJudge().judge(QUERY, style, e) == whole.judge(QUERY, style, e) for e in (WORDS, sense))
    silent = replace(WORDS, status="silent")
    assert LenientJudge(["gibberish", "mismatch"]).judge(QUERY, style, silent).score == 1.0
    with pytest.raises(UserError, match="lacks must be some of"):
        LenientJudge(["tone"])
