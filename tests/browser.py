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


class Browser:
    def __init__(self, width: int = 1200, height: int = 1400, scale: int = 1) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.driver = subprocess.Popen(["chromedriver", f"--port={self.port}"], stdout=subprocess.DEVNULL)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"]
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
