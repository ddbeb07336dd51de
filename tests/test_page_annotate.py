"""`annotate` as its listeners use it: two at once in headless Chromium, a kill in the middle, and no rating of what was
not heard; skipped where gradio or Chromium is missing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from browser import AVAILABLE, Browser

from lightning_paras2s.audio import write_audio
from lightning_paras2s.bench.pairs.arena import arena
from lightning_paras2s.types import Audio, Human, Query, Response, append_jsonl, read_jsonl, to_json

ITEMS = 3
TOLD = 'document.querySelector("#told").innerText'
PLAYERS = ("query", "first", "second")


@pytest.fixture
def study(tmp_path):
    """Three queries, each with the answers of two systems, all of half a second."""
    time_axis = np.arange(8000) / 16_000
    queries = [Query(f"q{i}", f"p{i}", "age", "test", "Hi.", {"age": "child"}, "T", f"q{i}.flac") for i in range(ITEMS)]
    (tmp_path / "queries.jsonl").write_text("".join(to_json(query) + "\n" for query in queries))
    for folder, query in product(("", "x", "y"), queries):
        pitch = 300 + 100 * len(folder) + 10 * int(query.id[1:])
        sound = (0.3 * np.sin(2 * np.pi * pitch * time_axis)).astype(np.float32)
        write_audio(tmp_path / folder / query.audio, Audio(sound, 16_000))
    for name in ("x", "y"):
        append_jsonl(tmp_path / name / "responses.jsonl", [Response(q.id, name, audio=q.audio) for q in queries])
    return tmp_path


@pytest.fixture
def start(study):
    """Starts `annotate` in a process of its own; -> it, once its page is there."""
    programs = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def started() -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-m", "lightning_paras2s", "annotate", "--manifest", str(study / "queries.jsonl")]
        command += ["--runs", f"[{study / 'x'}, {study / 'y'}]", "--out", str(study / "human.jsonl")]
        command += ["--pairwise", "true", "--port", str(port)]
        with (study / "annotate.log").open("a") as log:
            programs.append(subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "NO_PROXY": "*"}))
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                break
            except OSError:
                assert programs[-1].poll() is None, (study / "annotate.log").read_text()
                time.sleep(0.1)
        return programs[-1], f"http://127.0.0.1:{port}/"

    yield started
    for program in programs:
        program.kill()
        program.wait()


def begin(browser: Browser, url: str, rater: str, left: int) -> None:
    browser.open(url)
    browser.wait('return document.querySelector("#rater input, #rater textarea") !== null', 60)
    browser.type("#rater input, #rater textarea", rater)
    browser.click("#begin")
    browser.wait(f'return {TOLD}.startsWith("{left} to go")', 60)
    ready(browser)


def ready(browser: Browser) -> None:
    """All three players have their sound."""
    shown = [f'document.querySelector("#{name} .play-pause-button") !== null' for name in PLAYERS]
    browser.wait(f"return {' && '.join(shown)}", 60)


def play(browser: Browser, *names: str) -> None:
    """To the end: the button then offers to play once more."""
    for name in names:
        label = f'document.querySelector("#{name} .play-pause-button").ariaLabel'
        browser.wait(f'return {label} === "Play"', 30)
        browser.click(f"#{name} .play-pause-button")
        browser.wait(f'return {label} === "Pause"', 30)
        browser.wait(f'return {label} === "Play"', 30)
    time.sleep(0.5)  # what ended is on its way to the server


def choose(browser: Browser, place: int) -> None:
    browser.run(f'document.querySelectorAll("#answer input")[{place}].click()')
    time.sleep(0.3)


def judge(browser: Browser, choice: int, told: str) -> None:
    """Hear all, choose and save; -> the next item."""
    play(browser, *PLAYERS)
    choose(browser, choice)
    browser.click("#save")
    browser.wait(f'return {TOLD}.includes("{told}")', 60)


@pytest.mark.slow
def test_two_listeners_at_once_and_a_kill_leave_one_rating_for_each_item_that_was_heard(study, start):
    pytest.importorskip("gradio")
    if not AVAILABLE:
        pytest.skip("needs chromium and chromedriver")
    out, more = study / "human.jsonl", ("--autoplay-policy=no-user-gesture-required",)
    program, url = start()
    raters = {"ann": Browser(1200, 1400, more=more), "bob": Browser(390, 844, 2, more=more)}
    choices = {"ann": 0, "bob": 3}
    try:
        for rater, browser in raters.items():
            begin(browser, url, rater, ITEMS)
        for rater, browser in raters.items():  # what was heard in part, or not at all, is not saved
            choose(browser, choices[rater])
            browser.click("#save")
            browser.wait(f'return {TOLD}.startsWith("Not saved")', 60)
            play(browser, "query", "second")
            browser.click("#save")
            time.sleep(1.0)
            assert browser.run(f"return {TOLD}").startswith("Not saved") and not out.exists()
        for rater, browser in raters.items():
            judge(browser, choices[rater], f"{ITEMS - 1} to go")
            ready(browser)
            play(browser, "query", "first")
        if folder := os.environ.get("PARAS2S_SCREENSHOTS"):
            for rater, browser in raters.items():
                browser.screenshot(Path(folder) / f"annotate-{rater}.png")
        assert sorted(h.annotator for h in read_jsonl(out, Human)) == ["ann", "bob"]
        program.kill()
        program.wait(10)
        with out.open("a") as file:  # as a kill in the middle of a write leaves it
            file.write('{"item_id": "x/q')
        program, url = start()
        for rater, browser in raters.items():
            begin(browser, url, rater, ITEMS - 1)  # where they stopped
            choose(browser, choices[rater])
            browser.click("#save")  # what was heard before the kill was of another page
            browser.wait(f'return {TOLD}.startsWith("Not saved")', 60)
        for left in (f"{ITEMS - 2} to go", "All done"):
            for rater, browser in raters.items():
                judge(browser, choices[rater], left)
                if left != "All done":
                    ready(browser)
    finally:
        for browser in raters.values():
            browser.close()
    rows = read_jsonl(out, Human)
    assert Counter(h.annotator for h in rows) == {"ann": ITEMS, "bob": ITEMS}
    assert all(len({h.item_id for h in rows if h.annotator == rater}) == ITEMS for rater in raters)
    assert {(h.annotator, h.verdict) for h in rows} == {("ann", "a"), ("bob", "both_bad")}
    assert all(h.seconds >= 0.7 for h in rows)  # three half seconds at twice the speed
    assert arena(str(study / "arena"), str(out), orders=5)["games"] == 2 * ITEMS
