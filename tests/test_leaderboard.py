"""The leaderboard: every number with its interval and failures; never two judges in one table."""

import csv
import io
import json

import pytest

from lightning_paras2s.bench.leaderboard import leaderboard, read_summaries, render, table
from lightning_paras2s.bench.report import html_table
from lightning_paras2s.bench.standings import half_width
from lightning_paras2s.errors import UserError


def cell(mean, n=10, failed=0):
    interval = [mean - 0.5, mean + 0.5]
    whole = {"mean": mean, "ci95": interval, "n": n, "n_failed": failed, "mean_worst_case": mean, "pair_min": mean}
    pairs = {"pair_accuracy": 0.5, "pair_accuracy_ci95": [0.25, 0.75], "pair_gap": 0.0}
    return {**whole, **pairs, "label_swap_gain": 1.0, "label_swap_gain_ci95": [0.5, 1.5]}


def write_run(folder, judge="j", **means):
    systems = {name: {"age": cell(mean), "overall": cell(mean, failed=2)} for name, mean in means.items()}
    summary = {"systems": systems, "judge": judge, "rubric_sha": "0123456789", "label_source": "gold"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return str(folder)


def test_markdown_shows_intervals_n_and_failures_best_first(tmp_path):
    text = render(table(read_summaries([write_run(tmp_path, low=2.0, high=4.0)])), "markdown")
    first, second = text.splitlines()[2:4]
    shown = "| high | 4.00 [3.50, 4.50] | 4.00 [3.50, 4.50] | 10 | 2 | 0.50 [0.25, 0.75] | 1.00 [0.50, 1.50] |"
    assert first == shown and second.startswith("| low | 2.00")
    assert "Judge j, guideline 01234567, gold labels" in text


def test_verdicts_without_a_score_are_shown_by_status(tmp_path):
    run = write_run(tmp_path, a=3.0, b=2.0)
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["verdict_statuses"] = {"a": {"ok": 8, "timeout": 3, "no_score": 1}, "b": {"ok": 9}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    found = table(read_summaries([run]))
    assert found["unscored"] == {"a": {"timeout": 3, "no_score": 1}}
    for format in ("markdown", "rich"):
        text = " ".join(render(found, format).split())
        assert "Verdicts without a score: a (timeout 3, no_score 1)." in text


def test_queries_that_the_filter_left_out_are_counted_by_reason_and_factor(tmp_path):
    run = write_run(tmp_path, a=3.0)
    summary = json.loads((tmp_path / "summary.json").read_text())
    counts = {"read": 8, "kept": 4, "rejected": {"other_half": 2, "wer": 1, "style": 1}}
    factors = {"kept_by_factor": {"age": 4}, "read_by_factor": {"emotion": 4, "age": 4}}
    summary |= {"manifest": "kept.jsonl", "filtered": counts | factors}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    found = table(read_summaries([run]))
    expected = (
        "Queries kept by the filter: 4 of 8 (emotion 0 of 4, age 4 of 4); left out: other half 2, wer 1, style 1."
    )
    for format in ("markdown", "rich"):
        assert expected in " ".join(render(found, format).split())
    assert json.loads(render(found, "json"))["filtered"]["kept.jsonl"]["kept"] == 4


def test_audit_is_a_column_of_its_own_where_there_is_one(tmp_path):
    run = write_run(tmp_path, a=3.0, b=2.0)
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["audit"] = {"systems": {"a": {"age": cell(1.0), "overall": cell(2.5)}}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    result = table(read_summaries([run]))
    assert result["columns"] == ["overall", "age", "audit"]
    lines = render(result, "markdown").splitlines()
    assert lines[2].startswith("| a | 3.00 [2.50, 3.50] | 3.00 [2.50, 3.50] | 2.50 [2.00, 3.00] | 10 |")
    assert lines[3].startswith("| b | 2.00 [1.50, 2.50] | 2.00 [1.50, 2.50] | - |")
    assert "a,audit,2.5," in render(result, "csv") and any("other ears" in line for line in lines)


def test_csv_holds_each_number_by_itself(tmp_path):
    rows = list(csv.DictReader(io.StringIO(render(table(read_summaries([write_run(tmp_path, a=3.0)])), "csv"))))
    assert [(r["system"], r["column"], r["mean"], r["ci95_low"]) for r in rows] == [
        ("a", "overall", "3.0", "2.5"),
        ("a", "age", "3.0", "2.5"),
    ]


def test_json_and_rich_hold_the_same_systems(tmp_path, capsys):
    run = write_run(tmp_path, a=3.0)
    result = leaderboard([run], "json")
    assert json.loads(capsys.readouterr().out) == result
    leaderboard([run], "rich")
    out = capsys.readouterr().out
    assert "3.00 ±0.50" in " ".join(out.split()) and "ParaS2SBench" in out


def test_two_runs_of_one_system_are_told_apart(tmp_path):
    runs = [write_run(tmp_path / "one", a=3.0, b=1.0), write_run(tmp_path / "two", a=4.0)]
    assert [row["system"] for row in leaderboard(runs, "json", str(tmp_path / "t"))["rows"]] == [
        f"a ({runs[1]})",
        f"a ({runs[0]})",
        "b",
    ]


def test_system_without_a_score_is_a_dash(tmp_path):
    run = write_run(tmp_path, a=3.0)
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["systems"]["none"] = {"age": {**cell(1.0), "mean": None}, "overall": {**cell(1.0), "mean": None}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert "| none | - | - |" in render(table(read_summaries([run])), "markdown")


def test_two_judges_in_one_table_are_refused(tmp_path):
    runs = [write_run(tmp_path / "one", a=3.0), write_run(tmp_path / "two", judge="other", a=4.0)]
    with pytest.raises(UserError, match="must have one judge; .* differs .* in judge"):
        leaderboard(runs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must be a folder with summary.json"),
        ("{", "must be one JSON object"),
        ("{}", "must hold systems, judge"),
    ],
)
def test_missing_or_broken_summary_is_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(UserError, match=message):
        leaderboard([str(tmp_path)])


def test_no_runs_or_unknown_format_is_one_line():
    with pytest.raises(UserError, match="at least one run"):
        leaderboard([])
    with pytest.raises(UserError, match="got 'html'"):
        leaderboard(["x"], "html")


def two_systems(tmp_path):
    """`part` is .5 worse on each factor that both have a score in, and has none on the hardest."""
    whole = {"age": 2.0, "emotion": 4.0, "gender": 4.0, "sarcasm": 4.0}
    part = {name: None if name == "age" else mean - 0.5 for name, mean in whole.items()}
    run = write_run(tmp_path, whole=3.5, part=3.5)
    summary = json.loads((tmp_path / "summary.json").read_text())
    for name, means in (("whole", whole), ("part", part)):
        cells = {f: cell(1.0) | {"mean": m, "ci95": [None, None] if m is None else [m, m]} for f, m in means.items()}
        summary["systems"][name] |= cells
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    return run


@pytest.mark.parametrize("mean", [3.5, 3.9])
def test_an_average_that_lacks_a_factor_is_marked_and_stands_below_the_whole_ones(tmp_path, mean):
    """Of equal averages, and of one that is higher because the hardest factor is not in it."""
    run = two_systems(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["systems"] = {name: summary["systems"][name] for name in ("part", "whole")}
    summary["systems"]["part"]["overall"]["mean"] = mean
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    result = table(read_summaries([run]))
    assert [(row["system"], row["overall"]["lacks"]) for row in result["rows"]] == [("whole", []), ("part", ["age"])]
    told = "An average that lacks a factor, for no answer has a score there, stands below the whole ones."
    for format in ("markdown", "rich"):
        text = " ".join(render(result, format).split())
        assert "lacks" in text and "age)" in text and told in text
    assert f"| part | {mean:.2f} [3.00, 4.00] (lacks age) |" in render(result, "markdown")
    assert half_width("3.50 [3.00, 4.00] (lacks age)") == "3.50 ±0.50 (lacks age)"
    assert half_width("0.00 [0.00, 0.04]") == "0.00 ±0.04"  # not .02, which leaves out half of the interval
    assert half_width("4.80 [4.55, 4.90]") == "4.80 ±0.25" and half_width("-0.10") == "-0.10"
    assert "(lacks age)" in html_table(result)


def test_whole_averages_are_not_marked(tmp_path):
    result = table(read_summaries([write_run(tmp_path, a=3.0, b=2.0)]))
    assert "lacks" not in render(result, "markdown") and "lacks" not in render(result, "rich")


def test_an_audit_that_lacks_a_factor_is_marked(tmp_path):
    run = write_run(tmp_path, a=3.0)
    summary = json.loads((tmp_path / "summary.json").read_text())
    cells = {"age": {**cell(1.0), "mean": None, "ci95": [None, None]}, "emotion": cell(2.5), "overall": cell(2.5)}
    summary["audit"] = {"systems": {"a": cells}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert "| 3.00 [2.50, 3.50] | 2.50 [2.00, 3.00] (lacks age) |" in render(table(read_summaries([run])), "markdown")


def test_a_run_that_is_named_twice_is_refused(tmp_path):
    """Its systems stood in the table twice, as those of two runs."""
    run = write_run(tmp_path / "one", a=3.0)
    for other in (run, f"{run}/", f"{run}/summary.json"):
        with pytest.raises(UserError, match="runs must be different"):
            leaderboard([run, other], "json", str(tmp_path / "t"))
    assert not (tmp_path / "t").exists()
