"""Install what requirements.lock names for some extras, and the package itself, into the environment of this Python.

`install.py audit,test [--torch-index URL]`. Every file is checked by its hash. With an index of CPU builds, torch and
torchaudio come from there, in the locked versions, and no CUDA package is installed; the lock has no hashes of that
index's files. What pip said is in `install.log` in the environment's folder. Standard library only.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LOCK = "requirements.lock"
TORCH = ("torch", "torchaudio")
CUDA = re.compile(r"nvidia-|cuda-|triton$")
NEEDED_GB = {False: 9, True: 3}  # free on the disk; True: with an index of CPU builds


class Cause(NamedTuple):
    """A reason for which pip fails: how it is known, what of it is shown, and the line for the user."""

    pattern: str
    shown: str
    line: str


CAUSES = (
    Cause(
        r"DO NOT MATCH THE HASHES",
        "package",
        f"every package must be the file that {LOCK} names; got another hash: {{}}; `.venv/bin/python -m pip cache "
        "purge` and run again; where setup.cfg has changed, `make lock` first",
    ),
    Cause(
        r"No space left|Disk quota exceeded|File too large",
        "reason",
        "the disk must have room for the packages; got {}; make room there and in the temporary folder",
    ),
    Cause(
        r"Connection refused|Temporary failure in name resolution|Name or service not known|Network is unreachable"
        r"|No route to host|Read timed out|connect timeout|ProxyError|CERTIFICATE_VERIFY_FAILED|Connection reset",
        "reason",
        "the package index must be reachable; got {}; check the network and pip's settings (`pip config list`)",
    ),
    Cause(
        r"The user requested \(constraint\).*",
        "reason",
        f"this machine's pip settings must admit what {LOCK} names; got {{}}; lift that constraint (`pip config list`)",
    ),
    Cause(
        r"No matching distribution.*|Could not find a version.*",
        "reason",
        f"the index must have what {LOCK} names; got {{}}; try another index (`pip config list`)",
    ),
)


class Package(NamedTuple):
    """One version in the lock: its requirement with marker and hashes, as pip reads it, and the extras that need it."""

    name: str
    lines: str
    extras: tuple[str, ...]


def read_lock(text: str) -> list[Package]:
    """The packages of a lock, in its order. A package's lines follow a comment `# for: base` or `# for: audit test`."""
    found = re.findall(r"^# for: (.+)\n(([\w.-]+)==.*\n(?:    .*\n)*)", text, re.MULTILINE)
    return [Package(name, lines, tuple(extras.split())) for extras, lines, name in found]


def select(packages: list[Package], extras: list[str], cpu: bool, base: bool = True) -> str:
    """The requirements of the package with `extras`; with `cpu`, without torch, torchaudio and CUDA; without `base`,
    only what the extras add.

    Raises:
        SystemExit: an extra that the lock does not have.
    """
    known = {extra for package in packages for extra in package.extras}
    if unknown := sorted(set(extras) - known):
        fail(f"an extra must be one of {', '.join(sorted(known - {'base'}))}; got {', '.join(unknown)}; `make lock`")
    asked = {"base", *extras} if base else set(extras)
    wanted = [p for p in packages if asked & set(p.extras)]
    return "".join(p.lines for p in wanted if not (cpu and (p.name in TORCH or CUDA.match(p.name))))


def torch_pair(packages: list[Package]) -> list[str]:
    """`torch==X` and `torchaudio==Y` of the lock."""
    return [re.match(r"\S+", p.lines)[0] for p in packages if p.name in TORCH]


def explain(output: str) -> str:
    """What pip said -> one line: what must hold, what came, what to do."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for cause in CAUSES:
        found = [text for text in lines if re.search(cause.pattern, text)]
        if found:
            named = [text.split(" from ")[0] for text in lines if re.match(r"\S+==\S+ from ", text)]
            what = {"package": (named or found)[0], "reason": re.search(cause.pattern, found[-1])[0], "line": found[-1]}
            return cause.line.format(what[cause.shown][:160])
    errors = [text for text in lines if text.startswith("ERROR")] or lines or ["nothing"]
    return f"pip must succeed; got {errors[-1][:200]}"


def fail(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


def pip(log: Path, *arguments: str) -> None:
    """Run pip with what it says in `log`; a failure is one line."""
    command = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--retries", "2"]
    done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        with log.open("a") as file:
            file.write(done.stdout)
    except OSError:  # the disk is full
        pass
    if done.returncode:
        fail(f"{explain(done.stdout)} (all of it: {log})")


def check_disk(folder: Path, needed: int) -> None:
    """Refuse a first installation on a disk that is too full for it."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < needed and not list(Path(sys.prefix).glob("lib/python*/site-packages/torch")):
        remedy = "make room, or give an index of CPU builds, which need a third of it: make TORCH_INDEX=URL ..."
        fail(f"the disk of {folder} must have {needed} GB free for the packages; got {free:.1f} GB; {remedy}")


def install(extras: list[str], torch_index: str, lock: Path, log: Path, package: bool, base: bool) -> None:
    """Install the locked packages, then this one as editable (`package`)."""
    packages = read_lock(lock.read_text(encoding="utf-8"))
    requirements = select(packages, extras, bool(torch_index), base)
    log.unlink(missing_ok=True)
    if package:
        check_disk(log.parent, NEEDED_GB[bool(torch_index)])
    if torch_index:
        pip(log, "--no-deps", "--index-url", torch_index, *torch_pair(packages))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        pip(log, "--require-hashes", "--no-deps", "-r", file.name)
    if package:
        pip(log, "--no-deps", "--no-build-isolation", "-e", str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("extras", help="with commas between, or an empty string")
    parser.add_argument("--torch-index", default="", help="an index that has CPU builds of torch and torchaudio")
    parser.add_argument("--lock", type=Path, default=ROOT / LOCK)
    parser.add_argument("--log", type=Path, default=Path(sys.prefix) / "install.log")
    parser.add_argument("--only-packages", action="store_true", help="leave out the package itself")
    parser.add_argument("--alone", action="store_true", help="only what the extras add: a tool that needs nothing else")
    options = parser.parse_args()
    extras = [extra for extra in options.extras.split(",") if extra]
    install(
        extras,
        options.torch_index,
        options.lock,
        options.log,
        not (options.only_packages or options.alone),
        not options.alone,
    )


if __name__ == "__main__":
    main()
