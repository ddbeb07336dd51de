"""The report: one file without requests; players hold audio of the right length; filters and keys work (in Chromium, if
there is one)."""

import base64
import io
import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from beeps import BeepRecognizer, BeepSynthesizer, BeepTranscriber, beep_manifest
from browser import AVAILABLE, Browser
from test_evaluate import ACTS, Broken

from lightning_paras2s.bench.evaluate import evaluate
from lightning_paras2s.bench.listening import Listening, encode
from lightning_paras2s.bench.plots import SCORE_COLOURS, interval_plot, score_bars
from lightning_paras2s.bench.queries.synthesize import Attempt, statistics
from lightning_paras2s.bench.report import in_script, report
from lightning_paras2s.bench.systems.base import CascadeSystem, ToplineSystem
from lightning_paras2s.data.embedded import authored, frames
from lightning_paras2s.errors import UserError
from lightning_paras2s.hearing.words import plain_words
from lightning_paras2s.judging.judges import EmbeddedJudge
from lightning_paras2s.types import Audio, Query


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    queries = [q for factor in ("gender", "age") for q in [q for q in authored("test") if q["factor"] == factor][:4]]
    replies = [f["frame"] for f in frames() if f["split"] == "train"]
    words = sorted({w for t in [*replies, *(q["text"] for q in queries), "question"] for w in plain_words(t)})
    voice, ear = BeepSynthesizer(words), BeepTranscriber(words)
    systems = {"topline": ToplineSystem(voice), "cascade": CascadeSystem(ear, voice), "broken": Broken()}
    (folder / "queries").mkdir()
    manifest = beep_manifest(folder / "queries", queries, words)
    counts = {"read": 20, "kept": 16, "rejected": {"wer": 3, "style": 1}}
    by_factor = {"kept_by_factor": {"gender": 8, "age": 8}, "read_by_factor": {"gender": 8, "age": 12}}
    Path(manifest).with_suffix(".filter.json").write_text(json.dumps(counts | by_factor))
    evaluate(manifest, systems, EmbeddedJudge(ACTS), ear, BeepRecognizer(), str(folder / "run"))
    result = report(str(folder / "run"), str(folder / "report.html"), max_pairs=3)
    return folder, result, (folder / "report.html").read_text(encoding="utf-8")


def page_data(page):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def test_report_holds_pairs_with_both_halves_and_every_system(made):
    folder, result, page = made
    data = page_data(page)
    assert result["pairs"] == len(data["pairs"]) == 8 and result["bytes"] == len(page.encode())
    heard = [pair["factor"] for pair in data["pairs"] if pair["heard"]]
    assert result["pairs_with_audio"] == 6 and heard == ["age"] * 3 + ["gender"] * 3
    for pair in data["pairs"]:
        assert all(("audio" in half) == pair["heard"] and half["file"] for half in pair["halves"])
        assert len({half["style"] for half in pair["halves"]}) == 2
        assert all(
            {a["system"] for a in half["answers"]} == {"topline", "cascade", "broken"} for half in pair["halves"]
        )
    answers = [a for pair in data["pairs"] for half in pair["halves"] for a in half["answers"]]
    assert all(a["reason"] and a["transcript"] and a["tone"] for a in answers if a["system"] == "topline")
    assert {a["status"] for a in answers if a["score"] is None} <= {"refused"}


def test_audio_in_the_page_has_the_length_it_says(made):
    clips = [half for pair in page_data(made[2])["pairs"] for half in pair["halves"]]
    clips += [a for half in clips for a in half["answers"]]
    clips = [clip for clip in clips if "audio" in clip]
    assert len(clips) == made[1]["clips"]
    for clip in clips[::7]:
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(clip["audio"].partition(",")[2])))
        assert len(samples) / rate == pytest.approx(clip["seconds"], abs=0.08)  # an MP3 frame at 16 kHz is 36 ms


@pytest.mark.parametrize("encoding", ["mp3", "opus", "flac"])
def test_encoded_audio_sounds_like_the_original(encoding):
    time_axis = np.arange(16_000) / 16_000
    audio = Audio((0.3 * np.sin(2 * np.pi * 440 * time_axis)).astype(np.float32), 16_000)
    data = base64.b64decode(encode(audio, encoding).partition(",")[2])
    samples, rate = soundfile.read(io.BytesIO(data))
    spectrum = np.abs(np.fft.rfft(samples))
    assert spectrum.argmax() * rate / len(samples) == pytest.approx(440, abs=2)
    assert len(data) < (32_000 if encoding == "flac" else 8_000)


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href") and not value.startswith("data:")]


def test_report_counts_the_queries_that_the_filter_left_out(made):
    assert "kept by the filter: 16 of 20 (gender 8 of 8, age 8 of 12); left out: wer 3, style 1." in made[2]


def test_page_makes_no_request(made):
    page = re.sub(r'"audio": "data:[^"]*"', "", made[2])
    links = Links()
    links.feed(page)
    assert links.found == [] and not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest", page)


def test_text_cannot_end_the_script_it_stands_in():
    assert "</script" not in in_script({"text": "</script><script>alert(1)"})
    assert json.loads(in_script("a<b")) == "a<b"


def test_names_are_escaped_in_plots():
    plot = interval_plot({"<b>": {"overall": {"mean": 3.0, "ci95": [2.5, 3.5], "n": 4}}}, ["overall"])
    bars = score_bars({"<b>": {"3": 1, "-": 1}})
    assert "<b>" not in plot + bars and "&lt;b&gt;" in plot and "&lt;b&gt;" in bars


def test_interval_plot_places_means_on_the_scale():
    plot = interval_plot({"a": {"overall": {"mean": 3.0, "ci95": [1.0, 5.0], "n": 4}}}, ["overall"], width=496)
    # The scale runs from x = 96 (score 1) to x = 496 - 16 = 480 (score 5); 3 lies in the middle.
    assert 'x1="96.0" x2="480.0"' in plot and 'cx="288.0"' in plot


def test_bad_options_are_one_line(made, tmp_path):
    with pytest.raises(UserError, match="got 'wav'"):
        report(str(made[0] / "run"), encoding="wav")
    with pytest.raises(UserError, match="must be a folder of `evaluate`"):
        report(str(tmp_path / "none"))
    with pytest.raises(UserError, match="must be a folder with summary.json"):
        report(str(tmp_path), str(tmp_path / "out.html"))
    with pytest.raises(UserError, match="max_pairs must be at least 0; got -1"):
        report(str(made[0] / "run"), str(tmp_path / "out.html"), max_pairs=-1)
    assert not (tmp_path / "out.html").exists()


@pytest.fixture(scope="module")
def browser(made):
    if not AVAILABLE:
        pytest.skip("needs chromium and chromedriver")
    driver = Browser()
    driver.open(f"file://{made[0]}/report.html")
    yield driver
    driver.close()


def wait_for(browser, script):
    for _ in range(100):
        if browser.run(script):
            return
        time.sleep(0.05)
    raise AssertionError(script)


def test_players_have_the_right_durations_and_the_console_is_empty(browser):
    wait_for(browser, 'return [...document.querySelectorAll("audio")].every((a) => a.readyState > 0)')
    rows = browser.run('return [...document.querySelectorAll("audio")].map((a) => [a.duration, +a.dataset.seconds])')
    assert len(rows) > 20 and all(abs(duration - seconds) < 0.08 for duration, seconds in rows)
    assert browser.log("browser") == []
    asked = [json.loads(m)["message"] for m in browser.log("performance")]
    urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}
    assert all(url.startswith(("file:", "data:", "blob:")) for url in urls)


SET = 'const box = document.getElementById("{0}"); box.value = "{1}"; box.dispatchEvent(new Event("{2}"));'


def test_filters_keep_what_fits(browser):
    browser.run(SET.format("factor", "age", "change"))
    assert browser.run('return [...document.querySelectorAll(".pair")].map((p) => p.dataset.factor)') == ["age"] * 3
    browser.run(SET.format("factor", "", "change") + SET.format("scored", "cascade", "change").replace("box", "two"))
    browser.run(SET.format("score", "5", "change"))
    assert browser.run('return document.querySelectorAll(".pair").length') == 0  # the cascade never scores 5
    browser.run(SET.format("scored", "topline", "change"))
    assert browser.run('return document.querySelectorAll(".pair").length') > 0
    browser.run(SET.format("score", "", "change"))
    browser.run('document.querySelector("#systems input[value=cascade]").click()')
    shown = browser.run('return [...new Set([...document.querySelectorAll(".answer")].map((a) => a.dataset.system))]')
    assert sorted(shown) == ["broken", "topline"]
    browser.run('document.querySelector("#systems input[value=cascade]").click()')
    browser.run(SET.format("find", "no such word anywhere", "input"))
    assert browser.run('return document.getElementById("count").textContent').startswith("0 of 8")
    assert "No contrast pair" in browser.run('return document.getElementById("pairs").textContent')
    browser.run(SET.format("find", "", "input"))
    browser.run(SET.format("sound", "", "change"))
    assert browser.run('return document.getElementById("count").textContent').startswith("8 of 8")
    assert browser.run('return document.querySelector(".pair .file") !== null')  # where the recordings are
    browser.run(SET.format("sound", "1", "change"))
    assert browser.run('return document.getElementById("count").textContent').startswith("6 of 8")


def test_keys_move_between_pairs_and_pages(browser):
    browser.run("document.activeElement.blur()")
    focused = 'return [...document.querySelectorAll(".pair")].indexOf(document.activeElement)'
    for key, place in (("j", 0), ("j", 1), ("k", 0)):
        browser.press(key)
        assert browser.run(focused) == place
    browser.press("n")
    assert browser.run('return document.getElementById("page").textContent') == "page 2 of 2"
    browser.press("/")
    assert browser.run("return document.activeElement.id") == "find"


def test_page_fits_a_phone(made):
    if not AVAILABLE:
        pytest.skip("needs chromium and chromedriver")
    phone = Browser(390, 844, 2)
    phone.open(f"file://{Path(made[0])}/report.html")
    columns = phone.run('return getComputedStyle(document.querySelector(".halves")).gridTemplateColumns')
    width = phone.run("return document.documentElement.scrollWidth")
    order = phone.run(
        "const rows = [...document.querySelector('.pair').querySelectorAll('.answer')];"
        "return rows.sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top)"
        ".map((row) => row.dataset.system)"
    )
    phone.close()
    assert width <= 390 and len(columns.split()) == 1
    assert order[0::2] == order[1::2] and len(set(order)) == 3  # a system's two answers one under the other


def luminance(colour: str) -> float:
    """WCAG 2.1's relative luminance of "#rrggbb"."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_scores_can_be_read_on_their_colours(made):
    """Black on white is 21; WCAG asks for 4.5 of text. The page's badges and the plots' bars have the same colours."""
    assert (luminance("#ffffff") + 0.05) / (luminance("#000000") + 0.05) == pytest.approx(21)
    assert all((luminance(c) + 0.05) / (luminance("#10151a") + 0.05) > 4.5 for c in SCORE_COLOURS)
    assert all(f'{score}: "{colour}"' in made[2] for score, colour in enumerate(SCORE_COLOURS, 1))


def test_players_and_prompts_are_counted_by_factor_where_two_share_a_pair_id():
    """Two factors of the pairs 1 and 2, in another order: with one pair a factor two of four have players."""
    names = [("emotion", "1"), ("emotion", "2"), ("age", "2"), ("age", "1")]
    queries = [Query(f"{factor}-{pair}", pair, factor, "test", "", {}, "", "") for factor, pair in names]
    page = Listening.__new__(Listening)
    page.queries, page.responses = {q.id: q for q in queries}, {(q.id, "a"): None for q in queries}
    pairs, heard = page.pairs(1)
    assert [halves[0].id for halves in pairs if halves[0].pair in heard] == ["emotion-1", "age-2"]
    attempts = {q.id: Attempt(q.id, "ok", 1.0) for q in queries}
    assert statistics(queries, attempts)["total"]["prompts"] == 4


def test_a_page_shows_no_verdicts_that_its_table_does_not_count(made, tmp_path):
    """As an `evaluate` leaves them that was ended while it judged anew: the table was of the old ones."""
    run = tmp_path / "run"
    shutil.copytree(made[0] / "run", run)
    lines = (run / "verdicts.jsonl").read_text().splitlines(keepends=True)
    (run / "verdicts.jsonl").write_text("".join(lines[:-5]))
    with pytest.raises(UserError, match="must hold the verdicts that its summary counts; got others"):
        report(str(run), str(tmp_path / "out.html"))
    assert not (tmp_path / "out.html").exists()
