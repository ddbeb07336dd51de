"""Runs are compared if one judge scored them by one set of rules, to one pair of ears: a name tells neither weights nor
thresholds, and what a summary does not hold is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_identity import ACTS, PitchEar, Reader, StyleByPitch, manifest, run

from lightning_paras2s.bench.leaderboard import leaderboard
from lightning_paras2s.bench.pairs.arena import arena
from lightning_paras2s.bench.standings import read_summaries, render, table
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.recognizers import AcousticStyleRecognizer, StyleNetwork
from lightning_paras2s.hearing.transcribers import TinyTranscriber
from lightning_paras2s.judging.judges import EmbeddedJudge, LLMJudge
from lightning_paras2s.models.checkpoint import save_module
from lightning_paras2s.running.parts import part_sha

WEIGHTS = Path(ACTS).parent


def ear(weights: float, kind: type = PitchEar):
    made = kind([]) if kind is PitchEar else kind()
    made.weights = np.full(3, weights)
    return made


def changed(folder: Path, change) -> None:
    """A summary as another version or another hand left it."""
    summary = json.loads((folder / "run/summary.json").read_text())
    change(summary)
    (folder / "run/summary.json").write_text(json.dumps(summary))


@pytest.fixture
def two(tmp_path):
    """Evaluates one manifest into the folders a and b, each with options of its own -> the two runs."""

    def made(first: dict, second: dict) -> list[str]:
        for name, options in (("a", first), ("b", second)):
            run(tmp_path / name, manifest(tmp_path), **options)
        return [str(tmp_path / name / "run") for name in "ab"]

    return made


def refused(runs: list[str], match: str, out: Path) -> None:
    for compare in (lambda: leaderboard(runs), lambda: arena(str(out), runs=runs, orders=5)):
        with pytest.raises(UserError, match=match):
            compare()


def test_one_judge_by_two_thresholds_is_refused_in_one_table_and_one_arena(two, tmp_path):
    """ "said good" for "said" has WER 1: a mismatch, which scores 1, by the first, and 5 by the second."""
    judges = [{"judge": LLMJudge(Reader(), max_wer=most)} for most in (0.5, 9)]
    refused(two(*judges), "must have the same judge, with its weights and thresholds; got [0-9a-f]", tmp_path / "out")


def test_a_threshold_that_is_a_whole_number_tells_judges_apart():
    for judge in (lambda most: LLMJudge(Reader(), max_wer=most), lambda most: EmbeddedJudge(ACTS, max_wer=most)):
        assert part_sha(judge(1)) == part_sha(judge(1.0)) != part_sha(judge(2))


@pytest.mark.parametrize("part", ["transcriber", "recognizer"])
def test_ears_of_one_name_with_other_weights_are_refused(two, tmp_path, part):
    kind = PitchEar if part == "transcriber" else StyleByPitch
    runs = two({part: ear(0.0, kind)}, {part: ear(1.0, kind)})
    refused(runs, "must have the same ears, with their weights; got .* make a table of each", tmp_path / "out")


def test_other_ears_and_other_queries_are_refused_in_the_arena_too(tmp_path):
    other, path = PitchEar([]), manifest(tmp_path)
    other.name = "other-ear"
    for name, options in (("a", {}), ("b", {"transcriber": other}), ("c", {"limit": 1})):
        run(tmp_path / name, path, **options)
    runs = {name: str(tmp_path / name / "run") for name in "abc"}
    refused([runs["a"], runs["b"]], "must have the same ears; ", tmp_path / "out")
    refused([runs["a"], runs["c"]], "must have the same queries; ", tmp_path / "out")


def test_audits_by_other_ears_share_no_column(two):
    """By name, and by weights of one name."""
    named = ear(0.0, StyleByPitch)
    named.name = "egemaps"
    runs = two({"audit_recognizer": named}, {"audit_recognizer": ear(0.0, StyleByPitch)})
    with pytest.raises(UserError, match="the audits of a table must have the same ears; "):
        leaderboard(runs)


def test_audits_by_ears_of_one_name_with_other_weights_share_no_column(two):
    runs = two({"audit_recognizer": ear(0.0, StyleByPitch)}, {"audit_recognizer": ear(1.0, StyleByPitch)})
    with pytest.raises(UserError, match="the audits of a table must have the same ears, with their weights; "):
        leaderboard(runs)


def test_a_run_without_an_audit_stands_beside_one_with_it(two):
    assert len(leaderboard(two({}, {"audit_recognizer": ear(0.0, StyleByPitch)}), "json")["rows"]) == 2


def test_hashes_are_written_of_the_run_and_of_its_audit(two):
    summary = json.loads((Path(two({}, {"audit_recognizer": ear(1.0, StyleByPitch)})[1]) / "summary.json").read_text())
    assert summary["judge_sha"] == part_sha(LLMJudge(Reader(), max_wer=9.0)) == summary["audit"]["judge_sha"]
    ears = {"transcriber": part_sha(PitchEar([])), "recognizer": part_sha(StyleByPitch())}
    assert summary["providers_sha"] == ears
    assert summary["audit"]["providers_sha"] == ears | {"recognizer": part_sha(ear(1.0, StyleByPitch))}


def test_a_summary_from_before_hashes_is_read_and_what_it_lacks_is_told(two, tmp_path, capsys):
    runs = two({}, {"transcriber": ear(1.0)})
    changed(tmp_path / "a", lambda summary: [summary.pop(name) for name in ("judge_sha", "providers_sha")])
    result = table(read_summaries(runs))
    line = f"Compared by name alone, their weights and thresholds are not recorded: judge and ears of {runs[0]}."
    for format in ("markdown", "rich"):
        assert " ".join(line.split()) in " ".join(render(result, format).split()).replace("- ", "-")
    arena(str(tmp_path / "out"), runs=runs, orders=5)
    assert line in capsys.readouterr().err
    assert table(read_summaries(runs[:1]))["notes"] == []  # alone it is compared with nothing


def test_a_run_that_tells_nothing_does_not_join_two_that_differ(two, tmp_path):
    """First in the list, it would be alike to either."""
    runs = two({"transcriber": ear(0.0)}, {"transcriber": ear(1.0)})
    shutil.copytree(tmp_path / "a", tmp_path / "old")
    changed(tmp_path / "old", lambda summary: [summary.pop(name) for name in ("judge_sha", "providers_sha")])
    with pytest.raises(UserError, match="must have the same ears, with their weights"):
        read_summaries([str(tmp_path / "old/run"), *runs])


def test_a_folder_without_a_summary_fights_and_the_arena_tells_that_it_is_not_known(two, tmp_path, capsys):
    runs = two({}, {})
    (Path(runs[1]) / "summary.json").unlink()
    assert arena(str(tmp_path / "out"), runs=runs, orders=5)["games"] == 4
    told = f"not known, for there is no summary.json, whether queries, judge and ears are the others': {runs[1]}"
    assert told in capsys.readouterr().err


def test_a_hash_depends_on_weights_and_thresholds_but_on_no_path_batch_or_use(tmp_path):
    """Other folders, other batch sizes, before and after it was used."""
    made = {"acts": EmbeddedJudge, "style": AcousticStyleRecognizer, "transcriber": TinyTranscriber}
    for name, part in made.items():
        here, there = WEIGHTS / f"{name}.safetensors", tmp_path / f"other-{name}.safetensors"
        shutil.copyfile(here, there)
        assert part_sha(part(str(here))) == part_sha(part(str(there))), name
    for name in ("style", "transcriber"):
        path = str(WEIGHTS / f"{name}.safetensors")
        assert len({part_sha(made[name](path, batch_size=size)) for size in (1, 8)}) == 1
    torch.manual_seed(0)
    save_module(StyleNetwork(), tmp_path / "new.safetensors", torch.float32)
    other = AcousticStyleRecognizer(str(tmp_path / "new.safetensors"))
    assert part_sha(other) != part_sha(AcousticStyleRecognizer(str(WEIGHTS / "style.safetensors")))
