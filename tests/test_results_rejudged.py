"""Today's judge is the one of the shipped rows: it gives their answers the same scores, by our ears' words and by
Whisper's, and reads by the same lists of words. Its hashes hold its options and its weights, and no rule."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from lightning_paras2s.hearing.words import word_error_rate
from lightning_paras2s.judging import acts, rubric
from lightning_paras2s.judging.judges import EmbeddedJudge
from lightning_paras2s.types import Evidence, Query, Style

RESULTS = Path(__file__).parents[1] / "results"
REMEDY = "give `EmbeddedJudge` a new name, or verdicts by the old rules are mixed with new ones and no one is told"


def test_the_judge_of_this_name_gives_the_shipped_scores():
    judge = EmbeddedJudge()
    lines, others = [], []
    for name, step in (("ears_shipped", 1), ("ears_judge", 2), ("ears_full", 12)):
        lines += gzip.decompress((RESULTS / f"{name}.jsonl.gz").read_bytes()).splitlines()[::step]
    for row in map(json.loads, lines):
        style = {row["factor"]: row["style"]}
        query = Query(row["query_id"], row["pair_id"], row["factor"], "test", row["query"], style, "", "")
        for ears in ("ours", "outside"):
            heard = row[f"heard_{ears}"]
            wer = word_error_rate(row["text"], heard)
            assert wer == pytest.approx(row[f"wer_{ears}"])
            evidence = Evidence(query.id, transcript=heard, tone=row["tone"], wer=wer)
            score = judge.judge(query, Style(**style), evidence).score
            if score != row[f"score_{ears}"]:
                others.append((query.id, ears, heard, row[f"score_{ears}"], score))
    assert len(lines) > 1900 and not others, f"{len(others)} other scores, first {others[0]}: {REMEDY}"


def test_the_words_that_the_judge_reads_by_are_those_of_its_name():
    """A word that no shipped answer holds, too."""
    tables = [rubric.BEST_TONES, rubric.CLASHING_TONES, rubric.PLEASANT, rubric.UNPLEASANT, rubric.FAILURES]
    tables += [rubric.STOPWORDS, rubric.TWICE, rubric.JOINTS, rubric.NEAR, rubric.UNENDED, rubric.UNDETERMINED]
    tables += [acts.FORMAT, acts.STEM, acts.TOPIC, EmbeddedJudge().classifier.limits, EmbeddedJudge().max_wer]
    told = json.dumps(tables, default=sorted, sort_keys=True)
    assert EmbeddedJudge().name == "embedded-rubric-2"
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "f98ec7d2dfee897d", REMEDY
