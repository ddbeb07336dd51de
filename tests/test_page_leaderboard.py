"""The leaderboard as a page: every number of the table, what answers cost and how long they take, players of every
system, nothing that runs; looked at in Chromium, if there is one."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import AVAILABLE, Browser
from sounds import tone
from test_leaderboard import write_run

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.leaderboard import leaderboard
from lightning_paras2s.bench.leaderboard_page import cost_cell, seconds_cell
from lightning_paras2s.bench.template import filled
from lightning_paras2s.errors import UserError
from lightning_paras2s.types import Evidence, Query, Response, Verdict, append_jsonl, to_json

NASTY = "<script>document.title='broken'</script>"
NAME = f"bad {NASTY} __TABLE__ \" ' &"
RATE = 16_000
HALVES = ("child", "adult")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs over three pairs of a factor: `good` in the first, a system with a nasty name in the second."""
    folder = tmp_path_factory.mktemp("board")
    queries = [
        Query(
            f"q{i}{style}", f"p{i}", "age", "test", f"Hi {i} {NASTY}", {"age": style}, f"T {NASTY}", f"q{i}{style}.wav"
        )
        for i in range(3)
        for style in HALVES
    ]
    (folder / "queries.jsonl").write_text("".join(to_json(query) + "\n" for query in queries))
    for query in queries:
        write_audio(folder / query.audio, tone(300))
    for run, system, pitch in (("one", "good", 500), ("two", NAME, 700)):
        write_run(folder / run, **{system: 3.0})
        summary = json.loads((folder / run / "summary.json").read_text())
        (folder / run / "summary.json").write_text(json.dumps(summary | {"manifest": str(folder / "queries.jsonl")}))
        for number, query in enumerate(queries):
            sound = Path("audio") / f"{number}.wav"
            write_audio(folder / run / sound, tone(pitch))
            latency = {"total_seconds": float(number), "first_audio_seconds": number / 10} if run == "one" else {}
            made = Response(query.id, system, audio=str(sound), seconds=0.5, latency=latency, text="Yes.")
            made = Response(**{**vars(made), "cost_usd": 0.5 if run == "one" else None})
            append_jsonl(folder / run / "responses.jsonl", [made])
            append_jsonl(folder / run / "evidence.jsonl", [Evidence(made.id, f"yes {NASTY}", tone_raw=f"calm {NASTY}")])
            verdict = Verdict(made.id, "j", 4.0, f"why {NASTY}", "0123456789")
            append_jsonl(folder / run / "verdicts.jsonl", [verdict])
    return folder, [str(folder / "one"), str(folder / "two")]


@pytest.fixture(scope="module")
def page(runs):
    folder, paths = runs
    result = leaderboard(paths, "csv", str(folder / "t.csv"), html=str(folder / "site/board.html"), html_pairs=2)
    return result["html"], (folder / "site/board.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found, self.rows, self.text, self.cell = [], [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = False

    def handle_data(self, data):
        self.text += data
        if self.cell:
            self.rows[-1][-1] += data


def test_the_table_has_intervals_latency_and_cost(page):
    rows = {row[0]: row for row in Elements(page[1].partition("<h2>Listen")[0]).rows}
    (head,) = (row for row in rows.values() if row[0] == "system")
    assert head[-3:] == ["first sound, s", "answer, s", "USD an answer"]
    good = dict(zip(head, rows["good"], strict=True))
    assert (good["overall"], good["n"], good["failed"]) == ("3.00 [2.50, 3.50]", "10", "2")
    # 0 to 5 s: the median is 2.5, and 95 % of the way from 0 to 5 is 4.75; six answers of half a dollar are 3
    assert good["answer, s"] == "2.50 (95 %: 4.75)" and good["first sound, s"] == "0.25 (95 %: 0.47)"
    assert good["USD an answer"] == "0.5000 (3.00 in all)"
    assert rows[NAME][-3:] == ["-", "-", "-"]


def test_costs_count_failed_answers_and_latencies_do_not():
    rows = [Response("a", "s", cost_usd=1.0, latency={"total_seconds": 1.0})]
    rows += [Response("b", "s", cost_usd=3.0, latency={"total_seconds": 9.0}, status="timeout"), Response("c", "s")]
    assert cost_cell(rows) == "2.0000 (4.00 in all)" and seconds_cell(rows, "total_seconds") == "1.00 (95 %: 1.00)"
    assert cost_cell([]) == seconds_cell(rows, "first_audio_seconds") == "-"


def test_every_system_can_be_heard_in_both_halves_of_the_pairs(page):
    result, text = page
    sounds = [attrs for tag, attrs in Elements(text).found if tag == "audio"]
    # two pairs of two halves, each a query and two systems
    assert result["pairs"] == 2 and result["clips"] == len(sounds) == 12 and result["bytes"] == len(text.encode())
    heard = {}
    for sound in sounds:
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sound["src"].partition(",")[2])))
        pitch = np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)
        heard.setdefault(sound["aria-label"].rpartition(" ")[0], set()).add(round(pitch, -2))
    assert heard == {"query,": {300}, "good answers": {500}, f"{NAME} answers": {700}}


def test_nothing_in_the_page_runs_or_is_loaded(page):
    found = Elements(page[1])
    tags = {tag for tag, _ in found.found}
    assert "script" not in tags and "img" not in tags and "iframe" not in tags
    names = {name for _, attrs in found.found for name in attrs}
    assert not any(name.startswith("on") for name in names)
    links = [attrs.get("src") or attrs.get("href") for _, attrs in found.found if "src" in attrs or "href" in attrs]
    assert all(link.startswith("data:") for link in links)
    assert "default-src 'none'" in page[1] and not re.search(r"url\(|@import", page[1])
    for told in (NAME, f"Hi 0 {NASTY}", f"“yes {NASTY}”", f"calm {NASTY}", f"why {NASTY}"):
        assert told in found.text  # all there, as text


def test_the_page_tells_how_to_add_a_row(runs, page):
    text = Elements(page[1]).text
    assert f"--manifest {runs[0]}/queries.jsonl" in text and "evaluate --systems.help CommandSystem" in text
    assert f"leaderboard --runs '[{runs[1][0]}, {runs[1][1]}, runs/mine]' --html leaderboard.html" in text
    assert "only with the same judge j, guideline 01234567, gold labels and the same ears" in text


def test_a_row_of_predicted_labels_is_added_by_predicted_labels(runs, tmp_path):
    """By the command as it was told, the row was one of gold labels, which is refused."""
    folder, (one, _) = runs
    shutil.copytree(one, tmp_path / "one")
    summary = json.loads((tmp_path / "one/summary.json").read_text()) | {"label_source": "predicted"}
    (tmp_path / "one/summary.json").write_text(json.dumps(summary))
    leaderboard([str(tmp_path / "one")], "csv", str(tmp_path / "t"), str(tmp_path / "board.html"), 0)
    text = Elements((tmp_path / "board.html").read_text(encoding="utf-8")).text
    assert f"--manifest {folder}/queries.jsonl --label_source predicted --output runs/mine" in text


def test_what_is_filled_in_may_look_like_a_mark():
    assert filled("__A__ __B__", {"__A__": "__B__", "__B__": "__A__"}) == "__B__ __A__"


def test_a_summary_alone_has_a_row_and_a_line_but_no_players(runs, tmp_path):
    folder, paths = runs
    write_run(tmp_path / "alone", alone=5.0)
    summary = tmp_path / "alone/summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"manifest": str(folder / "queries.jsonl")}))
    board = tmp_path / "board.html"
    result = leaderboard([paths[0], str(tmp_path / "alone/summary.json")], "csv", str(tmp_path / "t"), str(board))
    text = Elements(board.read_text(encoding="utf-8")).text
    assert f"{tmp_path}/alone/summary.json holds a summary alone, so alone can't be heard here." in text
    assert result["html"]["clips"] == 8 and text.count("no answer on record") == 4
    none = leaderboard([str(tmp_path / "alone")], "csv", str(tmp_path / "t"), str(board))
    assert none["html"]["clips"] == 0 and "recordings are not here" in board.read_text(encoding="utf-8")


def test_bad_options_are_one_line_and_write_nothing(runs, tmp_path):
    folder, paths = runs
    board = tmp_path / "board.html"
    with pytest.raises(UserError, match="html_pairs must be at least 0; got -1"):
        leaderboard(paths, html=str(board), html_pairs=-1)
    write_run(tmp_path / "moved", a=3.0)
    append_jsonl(tmp_path / "moved/responses.jsonl", [Response("q", "a")])
    with pytest.raises(UserError, match="needs its queries; got none .*--manifest"):
        leaderboard([str(tmp_path / "moved")], html=str(board))
    assert not board.exists()


@pytest.mark.parametrize(("kind", "width", "scale"), [("desktop", 1200, 1), ("phone", 390, 2)])
def test_the_page_plays_and_fits(runs, page, kind, width, scale):
    if not AVAILABLE:
        pytest.skip("needs chromium and chromedriver")
    browser = Browser(width, 1000, scale)
    try:
        browser.open(f"file://{runs[0]}/site/board.html")
        browser.wait('return [...document.querySelectorAll("audio")].every((one) => one.duration > 0.4)')
        assert browser.run("return document.title") == "ParaS2SBench leaderboard"
        assert browser.run("return document.documentElement.scrollWidth") <= width
        cards = browser.run(
            'return [...document.querySelectorAll(".pair:first-of-type .card")]'
            ".map((card) => [card.getBoundingClientRect(), card.querySelector('audio').ariaLabel])"
            ".sort(([a], [b]) => a.top - b.top || a.left - b.left).map(([, label]) => label)"
        )
        halves = [f"{who} {style}" for who in ("query,", "good answers", f"{NAME} answers") for style in HALVES]
        assert cards == halves  # a system's two answers side by side, or one under the other
        if folder := os.environ.get("PARAS2S_SCREENSHOTS"):
            browser.screenshot(Path(folder) / f"board-{kind}.png")
            browser.run('document.querySelector(".pair").scrollIntoView()')
            browser.screenshot(Path(folder) / f"board-{kind}-pairs.png")
        assert browser.log("browser") == []
    finally:
        browser.close()
