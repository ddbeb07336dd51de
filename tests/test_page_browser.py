"""The page of `serve` in a headless Chromium with a fake microphone, on a desktop and a phone; skipped where there is
none."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import soundfile
from browser import AVAILABLE, FAKE_MICROPHONE, Browser
from sounds import tone

from lightning_paras2s.bench.pairs.arena import arena
from lightning_paras2s.bench.systems.base import SAMPLE_RATE
from lightning_paras2s.types import Battle, read_jsonl

pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from test_serve import Running  # noqa: E402  it needs what may be missing
from test_serve_page import NASTY, Toner, served  # noqa: E402

HEARD = 'document.querySelectorAll(".turn:first-child .side.heard").length'
TOLD = 'document.querySelector(".vote [role=status]").textContent'


@pytest.fixture(scope="module")
def browsers(tmp_path_factory):
    """Their microphones hear a tone of 600 Hz."""
    if not AVAILABLE:
        pytest.skip("needs chromium and chromedriver")
    spoken = tmp_path_factory.mktemp("microphone") / "tone.wav"
    soundfile.write(spoken, tone(600, 10.0).samples, SAMPLE_RATE)
    more = (*FAKE_MICROPHONE, f"--use-file-for-fake-audio-capture={spoken}")
    more += ("--autoplay-policy=no-user-gesture-required",)
    made = {"desktop": Browser(1200, 1000, more=more), "phone": Browser(390, 844, 2, more=more)}
    yield made
    for browser in made.values():
        browser.close()


@pytest.fixture
def page(tmp_path):
    with served(tmp_path) as running:
        yield running


def shoot(browser: Browser, name: str) -> None:
    """A picture to look at, where a folder for it is named."""
    if folder := os.environ.get("PARAS2S_SCREENSHOTS"):
        browser.screenshot(Path(folder) / f"{name}.png")


def choose(browser: Browser, value: str) -> None:
    browser.run(f'document.querySelector("input[value={value}]").click()')


def fits(browser: Browser) -> None:
    width = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    out = browser.run(  # text that runs out of its box, a player that is flattened
        "return [...document.querySelectorAll('p, h3, audio')].filter((one) => one.offsetParent && "
        "(one.scrollWidth > one.clientWidth + 1 || one.clientHeight < 20) && (one.textContent || one.src))"
        ".map((one) => one.outerHTML)"
    )
    assert out == []
    small = browser.run(
        "return [...document.querySelectorAll('button, select, .file, fieldset span, #rater')]"
        ".filter((one) => one.offsetParent && one.getBoundingClientRect().height < 43.5).map((one) => one.outerHTML)"
    )
    assert small == []  # a finger needs 44 pixels


def play(browser: Browser, side: int) -> None:
    """To the end, at the speed of a player."""
    browser.run(f"document.querySelectorAll('.turn')[0].querySelectorAll('.side audio')[{side}].play()")


@pytest.mark.parametrize("kind", ["desktop", "phone"])
def test_one_records_asks_hears_and_votes_blind(browsers, page, kind):
    browser = browsers[kind]
    browser.open(page.url)
    browser.wait('return !document.getElementById("desk").hidden')
    shoot(browser, f"{kind}-start")
    choose(browser, "two")
    browser.click("#record")
    browser.wait(
        'return parseFloat(document.getElementById("timer").textContent) > 1 && '
        'document.getElementById("level").value > 0.2'
    )
    shoot(browser, f"{kind}-recording")
    browser.click("#record")
    browser.wait('return document.getElementById("said").duration > 1')
    browser.click("#ask")
    browser.wait('return document.querySelectorAll(".side audio").length == 2')
    text = browser.run('return document.querySelector(".turn").innerText')
    assert all(
        part in text
        for part in ("low", "high", "600 hertz", "400 hertz", "800 hertz", "emotion: happy", "tone: calm", NASTY)
    )
    assert browser.run("return document.title") == "Talk to the model"  # its words are text, not markup
    shoot(browser, f"{kind}-two")
    fits(browser)

    choose(browser, "blind")
    browser.click("#ask")
    assert "needs your name" in browser.run('return document.getElementById("status").textContent')
    browser.type("#rater", "ann")
    browser.click("#ask")
    browser.wait('return document.querySelectorAll(".turn").length == 2')
    assert "low" not in browser.run('return document.querySelector(".turn .sides").innerText')
    vote = 'return [...document.querySelectorAll(".vote button")].filter((one) => !one.disabled).length'
    # To jump to the end is not to hear: the listener is told, and the server knows of nothing.
    browser.run("const a = document.querySelectorAll('.side audio')[0]; a.currentTime = a.duration - 0.05; a.play()")
    browser.wait(f'return {TOLD}.includes("skipped")')
    assert browser.run(f"return {HEARD}") == 0 and page.votes.turns[next(iter(page.votes.turns))].heard == []
    play(browser, 1)
    browser.wait(f"return {HEARD} == 1")
    assert browser.run(vote) == 0
    shoot(browser, f"{kind}-blind")
    play(browser, 0)
    browser.wait(f"{vote} == 4")
    browser.click('.vote button[data-verdict="both_good"]')
    browser.wait(f'return {TOLD}.startsWith("Saved")')
    assert "@f800" in browser.run('return document.querySelector(".turn .sides").innerText')
    shoot(browser, f"{kind}-voted")
    fits(browser)
    (battle,) = read_jsonl(page.battles, Battle)
    assert {battle.a, battle.b} == {"low@f400", "high@f800"}
    assert (battle.order, battle.verdict, battle.judge) == ("ba", "both_good", "ann")
    browser.click("#ask")
    browser.wait('return document.getElementById("status").textContent.includes("the first vote stays")')
    unwanted = [line for line in browser.log("browser") if "409" not in line]
    assert unwanted == []


def test_one_uploads_what_the_server_reads_and_is_told_what_it_refuses(browsers, page, tmp_path):
    browser = browsers["desktop"]
    sounds = {"deep.wav": tone(200), "fine.flac": tone(600), "silent.wav": tone(600, level=0.0)}
    for name, audio in sounds.items():
        soundfile.write(tmp_path / name, audio.samples, SAMPLE_RATE)
    (tmp_path / "text.wav").write_text("no sound")
    browser.open(page.url)
    browser.wait('return !document.getElementById("desk").hidden')
    status = 'return document.getElementById("status").textContent'
    for name, told in (("text.wav", "holds no sound"), ("silent.wav", "got silence"), ("deep.wav", "the model failed")):
        browser.type("#file", str(tmp_path / name))
        if name != "text.wav":
            browser.wait(f'{status}.startsWith("Listen")')
            browser.click("#ask")
        browser.wait(f'{status}.includes("{told}")')
    browser.type("#file", str(tmp_path / "fine.flac"))
    browser.wait(f'{status}.startsWith("Listen")')
    browser.click("#ask")
    browser.wait('return document.querySelector(".side audio") !== null')
    assert "600 hertz" in browser.run('return document.querySelector(".turn").innerText')
    assert len(browser.log("browser")) == 2  # the two refusals: 422 and 500


def test_a_locked_page_asks_for_its_key(browsers):
    with Running({"low": Toner(400)}, key="secret") as locked:
        browser = browsers["phone"]
        browser.open(locked.url)
        browser.wait('return !document.getElementById("unlock").hidden')
        for key in ("wrong", "secret"):
            browser.run('document.getElementById("key").value = ""')
            browser.type("#key", key)
            browser.click("#unlock button")
            if key == "wrong":
                browser.wait('return document.querySelector("#unlock [role=alert]") !== null')
                shoot(browser, "phone-locked")
        browser.wait('return !document.getElementById("desk").hidden')
        assert browser.run('return document.getElementById("blind").hidden')  # one model, no votes
        browser.log("browser")  # 401 twice


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_serve import LIMITS
from test_serve_page import Ear, Manner, Toner
from lightning_paras2s.serving.app import Server
from lightning_paras2s.serving.serve import bound, run
from lightning_paras2s.serving.talk import PageEars
from lightning_paras2s.serving.votes import Votes
votes = Votes(Path({battles!r}))
server = Server({{"low": Toner(400), "high": Toner(800)}}, LIMITS, "", PageEars(Ear(), Manner()), votes)
listening = bound("127.0.0.1", {port})
print(listening.getsockname()[1], flush=True)
run(server, listening)
"""


@pytest.fixture
def start():
    """Starts a server of the two systems in a process of its own -> it, and its port."""
    programs = []

    def started(battles: Path, port: int = 0) -> tuple[subprocess.Popen, int]:
        code = KILLED.format(tests=os.path.dirname(__file__), battles=str(battles), port=port)
        programs.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True))
        return programs[-1], int(programs[-1].stdout.readline())

    yield started
    for program in programs:
        program.kill()
        program.wait()


def vote_all(browser: Browser, rater: str, files: list[Path], killed: dict[int, threading.Barrier]) -> None:
    """Hear and judge each recording as a hand would. Where the server was `killed` when one answer was heard, its page
    says so, takes no vote, and asks again."""
    status = 'return document.getElementById("status").textContent'
    for number, file in enumerate(files):
        browser.type("#file", str(file))
        browser.wait(f'{status}.startsWith("Listen")')
        ask_and_hear(browser, 1)
        if number in killed:
            killed[number].wait(60)
            killed[number].wait(60)  # it is there again
            play(browser, 1)
            browser.wait(f'return {TOLD}.includes("no such answers")')
            assert browser.run('return document.querySelectorAll(".vote button:disabled").length') == 4
            ask_and_hear(browser, 1)
        play(browser, 1)
        browser.wait(f"return {HEARD} == 2")
        browser.click(f'.vote button[data-verdict="{"a" if rater == "ann" else "both_bad"}"]')
        browser.wait(f'return {TOLD}.startsWith("Saved")')


def ask_and_hear(browser: Browser, count: int) -> None:
    """The first `count` answers to what was chosen."""
    browser.run('document.getElementById("turns").replaceChildren()')
    browser.click("#ask")
    browser.wait('return document.querySelector(".vote") !== null')
    for side in range(count):
        play(browser, side)
        browser.wait(f"return {HEARD} == {side + 1}")


def listening(listeners: dict[str, Browser], url: str, files: list[Path], killed: threading.Barrier):
    """All listeners at work, each in a thread; -> these, and what goes wrong in them."""
    faults: list[BaseException] = []

    def listen(rater: str, browser: Browser) -> None:
        try:
            browser.open(url)
            browser.wait('return !document.getElementById("desk").hidden')
            choose(browser, "blind")
            browser.run('document.getElementById("rater").value = ""')
            browser.type("#rater", rater)
            vote_all(browser, rater, files, {1: killed})
        except BaseException as error:  # the test tells of it
            faults.append(error)
            killed.abort()

    threads = [threading.Thread(target=listen, args=one) for one in listeners.items()]
    for thread in threads:
        thread.start()
    return threads, faults


def test_two_listeners_at_once_and_a_kill_leave_one_vote_for_each_item_that_was_heard(browsers, start, tmp_path):
    battles, files = tmp_path / "battles.jsonl", [tmp_path / f"{pitch}.wav" for pitch in (500, 600, 700)]
    for file in files:
        soundfile.write(file, tone(float(file.stem)).samples, SAMPLE_RATE)
    listeners, killed = {"ann": browsers["desktop"], "bob": browsers["phone"]}, threading.Barrier(3)
    program, port = start(battles)
    threads, faults = listening(listeners, f"http://127.0.0.1:{port}/", files, killed)
    with contextlib.suppress(threading.BrokenBarrierError):
        killed.wait(60)
        program.kill()
        program.wait(10)
        with battles.open("a") as file:  # as a kill in the middle of a write leaves it
            file.write('{"query_id": "cut')
        program, _ = start(battles, port)
        killed.wait(60)
    for thread in threads:
        thread.join(90)
    program.terminate()
    assert faults == [] and program.wait(20) == 0
    games = read_jsonl(battles, Battle)
    items = {hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files}
    assert {(game.judge, game.query_id) for game in games} == {(r, item) for r in listeners for item in items}
    assert len(games) == 6 and all({game.a, game.b} == {"low@f400", "high@f800"} for game in games)
    assert {(game.judge, game.verdict) for game in games} == {("ann", "a"), ("bob", "both_bad")}
    assert arena(str(tmp_path / "out"), str(battles), orders=5)["games"] == 6
    for browser in listeners.values():
        browser.log("browser")
