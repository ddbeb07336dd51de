"""Write requirements.lock: exact versions with hashes of all that setup.cfg's extras need, resolved at once by uv.

`lock.py [PACKAGE ...]` keeps what is locked and renews the named packages; `--all` renews every one. An extra that is
added to setup.cfg is locked by the next run. The file names no index: pip takes files from wherever it is set up to
look, and checks their hashes.
"""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
PYTHON = "3.11"  # the lowest; the lock has markers for newer ones
HEADER = """\
# Written by `make lock` from setup.cfg; don't edit. Python 3.11 and newer; Linux on x86-64 is tested.
# `.ci/install.py` picks the packages of some extras; `pip install --require-hashes -r requirements.lock` installs all.
"""


def compile(extras: list[str], *options: str) -> str:
    """What uv resolves for the package with some extras, and to build it."""
    with tempfile.NamedTemporaryFile("w", suffix=".in") as file:
        build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
        file.write("\n".join(build) + "\n")
        file.flush()
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "setup.cfg", file.name, "--universal"]
        command += ["--python-version", PYTHON, "--no-header", "--no-annotate", "--no-emit-index-url", *options]
        command += [part for extra in extras for part in ("--extra", extra)]
        return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def names(lines: str) -> set[str]:
    return set(re.findall(r"^([\w.-]+)==", lines, re.MULTILINE))


def annotated(lines: str, needed: dict[str, set[str]]) -> str:
    """Each package after a comment that tells which extras need it (`base`: all do)."""

    def comment(match: re.Match[str]) -> str:
        extras = [extra for extra, found in needed.items() if match[1] in found]
        return f"# for: {'base' if 'base' in extras else ' '.join(extras)}\n{match[0]}"

    return re.sub(r"^([\w.-]+)==", comment, lines, flags=re.MULTILINE)


def main(arguments: list[str]) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = list(config["options.extras_require"])
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / LOCK.name
        if LOCK.is_file() and "--all" not in arguments:
            whole.write_text(LOCK.read_text())
        renew = [part for package in arguments if package != "--all" for part in ("--upgrade-package", package)]
        compile(extras, "--generate-hashes", "--output-file", str(whole), *renew)
        needed = {"base": names(compile([], "--constraints", str(whole)))}
        needed |= {extra: names(compile([extra], "--constraints", str(whole))) for extra in extras}
        text = HEADER + annotated(whole.read_text(), needed)
    if "://" in text or str(ROOT) in text:
        sys.exit("error: the lock must name no index and no folder")
    part = LOCK.with_suffix(".part")
    part.write_text(text)
    part.replace(LOCK)
    print(f"{LOCK.name}: {len(names(text))} packages")


if __name__ == "__main__":
    main(sys.argv[1:])
