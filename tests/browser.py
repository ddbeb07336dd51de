"""A headless Chromium through chromedriver's plain HTTP interface; for tests that are skipped where there is none."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

AVAILABLE = shutil.which("chromedriver") is not None and shutil.which("chromium") is not None


ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's name for a reference to one
# A microphone and a listener that nobody is asked for: both are Chromium's own, and silent to the outside.
FAKE_MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


class Browser:
    def __init__(
        self, width: int = 1200, height: int = 1400, scale: int = 1, more: tuple[str, ...] = (), dark: bool = False
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.driver = subprocess.Popen(["chromedriver", f"--port={self.port}"], stdout=subprocess.DEVNULL)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}", *more]
        if dark:
            arguments.append("--blink-settings=preferredColorScheme=0")
        chrome = {"args": arguments, "perfLoggingPrefs": {"enableNetwork": True}}
        if width < 600:
            chrome["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": scale}}
        wanted = {"browserName": "chrome", "goog:chromeOptions": chrome}
        wanted["goog:loggingPrefs"] = {"browser": "ALL", "performance": "ALL"}
        self._wait()
        self.session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _wait(self) -> None:
        for _ in range(100):
            try:
                self._ask("GET", "/status")
                return
            except OSError:
                time.sleep(0.1)

    def _ask(self, method: str, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["value"]

    def open(self, url: str) -> None:
        self._ask("POST", f"/session/{self.session}/url", {"url": url})

    def run(self, script: str):
        return self._ask("POST", f"/session/{self.session}/execute/sync", {"script": script, "args": []})

    def _found(self, selector: str) -> str:
        asked = {"using": "css selector", "value": selector}
        return self._ask("POST", f"/session/{self.session}/element", asked)[ELEMENT]

    def click(self, selector: str) -> None:
        """As a hand does: what is covered or disabled can't be clicked."""
        self._ask("POST", f"/session/{self.session}/element/{self._found(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Into a field, or a file's place into a field of files."""
        self._ask("POST", f"/session/{self.session}/element/{self._found(selector)}/value", {"text": text})

    def wait(self, script: str, seconds: float = 20.0):
        """What the script returns, once that is true."""
        until = time.monotonic() + seconds
        while not (found := self.run(script)):
            if time.monotonic() > until:
                raise AssertionError(f"{script} did not come within {seconds:g} s")
            time.sleep(0.05)
        return found

    def press(self, key: str) -> None:
        action = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        keyboard = {"type": "key", "id": "keyboard", "actions": action}
        self._ask("POST", f"/session/{self.session}/actions", {"actions": [keyboard]})

    def log(self, kind: str) -> list[str]:
        return [row["message"] for row in self._ask("POST", f"/session/{self.session}/se/log", {"type": kind})]

    def screenshot(self, path: str | Path) -> None:
        Path(path).write_bytes(base64.b64decode(self._ask("GET", f"/session/{self.session}/screenshot")))

    def close(self) -> None:
        self._ask("DELETE", f"/session/{self.session}")
        self.driver.terminate()
        self.driver.wait()
