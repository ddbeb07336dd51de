"""`doctor`: what this installation and this machine can do, on one screen."""

from __future__ import annotations

import argparse
import configparser
import json
import os
import platform
import shutil
import sys
import textwrap
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning_paras2s
from lightning_paras2s.errors import UserError
from lightning_paras2s.running import machine, shipped

Level = Literal["ok", "note", "warning", "broken"]
GB = 1e9
SHOWN = ("lightning", "transformers", "peft", "jsonargparse", "numpy")
STEP_GB = 3.0  # that an embedded GRPO step may take
ENOUGH_DISK_GB, LITTLE_DISK_GB = 2.0, 0.2  # a demo's run and speech; less than this, and nothing can be written


class Finding(NamedTuple):
    """One line of the screen: what was looked at, how it is, and whether commands can do with it."""

    name: str
    text: str
    level: Level = "ok"


def main(arguments: list[str]) -> int:
    """Parse options, print; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_paras2s doctor", description=doctor.__doc__.split("\n")[0]
    )
    parser.add_argument("--problems", action="store_true", help="print only what is wrong or slow")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args(arguments)
    result = doctor(options.problems)
    if options.json:
        print(json.dumps(result))
    return 0 if result["ok"] else 2


def doctor(problems: bool = False) -> dict[str, Any]:
    """Show versions, arithmetic, threads, memory, disk, GPU, extras and the shipped weights.

    Args:
        problems: print only what is wrong or slow.

    Returns:
        `ok` (nothing that commands need is broken) and the findings.
    """
    findings = [*packages(), *torch_and_gpu(), *arithmetic(), *room(), *extras(), weights()]
    broken = [f for f in findings if f.level == "broken"]
    for finding in findings:
        if not problems or finding.level in ("warning", "broken"):
            print(line(finding), file=sys.stderr if problems else sys.stdout)
    if not problems:
        print(f"Broken: {', '.join(f.name for f in broken)}." if broken else "All that the commands need is there.")
        print(
            "Next: make demo, or python -m lightning_paras2s --help" if not broken else "Next: mend it as told above."
        )
    return {"ok": not broken, "findings": [finding._asdict() for finding in findings]}


def line(finding: Finding, width: int = 80) -> str:
    """A finding on 80 columns."""
    mark = {"ok": " ", "note": " ", "warning": "!", "broken": "X"}[finding.level]
    first = f"{mark} {finding.name:13}"
    text = finding.text if finding.level in ("ok", "note") else f"{finding.level}: {finding.text}"
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=" " * len(first))


def packages() -> list[Finding]:
    """This package, Python, and each package that all commands need."""
    folder = Path(lightning_paras2s.__file__).parent
    version = f"{lightning_paras2s.__version__} in {folder}"
    python = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {sys.executable}"
    old = sys.version_info < (3, 11)
    found = [
        Finding("package", version),
        Finding("python", python + ("; it must be 3.11 or newer" if old else ""), "broken" if old else "ok"),
    ]
    wrong = unmet(requirements().get("", []))
    versions = ", ".join(f"{name} {installed(name)}" for name in SHOWN)
    if wrong:
        text = f"{'; '.join(wrong)}; {versions}; install the package again"
        return [*found, Finding("packages", text, "broken")]
    return [*found, Finding("packages", versions)]


def torch_and_gpu() -> list[Finding]:
    """Whether torch and torchaudio load together, and the GPUs that torch sees."""
    warnings.simplefilter("ignore")
    try:
        import torch
    except Exception as error:  # whatever keeps torch from loading is what the user must see
        return [
            Finding("torch", f"{installed('torch')} does not load ({first_line(error)}); install it again", "broken")
        ]
    try:
        from lightning_paras2s.models import signals  # noqa: F401
    except UserError as error:
        pair = Finding("torch", str(error), "broken")
    else:
        pair = Finding("torch", f"{torch.__version__} with torchaudio {installed('torchaudio')}: they load")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cards = [torch.cuda.get_device_properties(i) for i in range(count)]
    text = ", ".join(f"{card.name} {card.total_memory / GB:.0f} GB" for card in cards)
    return [pair, Finding("gpu", text or "none (the embedded configs need none)")]


def arithmetic() -> list[Finding]:
    """The processor's instruction sets, the precision that `auto` chooses, and the threads that are there."""
    flags = machine.cpu_flags()
    features = ", ".join(f"{name} {'yes' if name in flags else 'no'}" for name in machine.FEATURES)
    slow = platform.machine() in ("x86_64", "AMD64") and flags and "avx2" not in flags
    text = f"{machine.cpu_name()}: {features}"
    if slow:
        text += "; without AVX2 a step takes several times as long"
    precision, reason = auto_precision()
    count, limit = machine.usable_threads()
    threads = f"{count}, {limit}; {os.cpu_count()} in the machine, load {os.getloadavg()[0]:.1f}"
    if count < 2:
        threads += "; one thread makes a step 1.4 times as long as two"
    return [
        Finding("cpu", text, "warning" if slow else "ok"),
        Finding("precision", f"auto is {precision}: {reason}"),
        Finding("threads", threads, "warning" if count < 2 else "ok"),
    ]


def auto_precision() -> tuple[str, str]:
    """What `precision: auto` is here, and why: as a run would choose it."""
    try:
        from lightning_paras2s.running.precision import best_precision, cpu_features
    except (ImportError, OSError):
        return "unknown", "torch does not load"
    return best_precision(cpu_features())


def room() -> list[Finding]:
    """Memory, and the disk of the current folder, where runs and caches go."""
    free, total = (value / GB for value in machine.free_memory())
    memory = Finding("memory", f"{free:.1f} GB free of {total:.1f}")
    if free < STEP_GB:
        memory = Finding("memory", f"{memory.text}; a GRPO step takes up to {STEP_GB:g} GB: close others", "warning")
    folder = Path.cwd()
    disk = shutil.disk_usage(folder).free / GB
    text = f"{disk:.1f} GB free at {folder}"
    if not os.access(folder, os.W_OK):
        return [memory, Finding("disk", f"{text}, where nothing can be written: go to a folder of yours", "broken")]
    if disk < LITTLE_DISK_GB:
        return [memory, Finding("disk", f"{text}; runs and speech need {ENOUGH_DISK_GB:g} GB: make room", "broken")]
    if disk < ENOUGH_DISK_GB:
        return [memory, Finding("disk", f"{text}; runs and speech need {ENOUGH_DISK_GB:g} GB: make room", "warning")]
    return [memory, Finding("disk", text)]


def extras() -> list[Finding]:
    """Which extras are usable: their packages are there, in the versions that they need."""
    wanted = {extra: unmet(found) for extra, found in requirements().items() if extra}
    usable = [extra for extra, wrong in wanted.items() if not wrong]
    missing = [f"{extra} ({', '.join(wrong)})" for extra, wrong in wanted.items() if wrong]
    found = [Finding("extras", f"usable: {', '.join(usable) or 'none'}")]
    if missing:
        found.append(Finding("", f"not: {', '.join(missing)}; pip install 'lightning_paras2s[EXTRA]'", "note"))
    return found


def weights() -> Finding:
    """The shipped weights against their checksums."""
    wrong = shipped.damaged()
    if wrong:
        text = ", ".join(f"{name} {what}" for name, what in wrong.items())
        return Finding("weights", f"{text}; install the package (or check the repository out) again", "broken")
    count = len((shipped.PACKAGE / shipped.WEIGHTS / shipped.SUMS).read_text().splitlines())
    return Finding("weights", f"{count} files, each as in {shipped.SUMS}")


def requirements() -> dict[str, list[Any]]:
    """Extra ("" = all commands) -> its requirements, of the installed package or of the checkout's setup.cfg."""
    from packaging.requirements import Requirement

    file = shipped.PACKAGE.parent / "setup.cfg"
    if file.is_file():
        config = configparser.ConfigParser()
        config.read(file)
        lines = {"": config["options"]["install_requires"]} | dict(config["options.extras_require"])
        return {
            name: [Requirement(r) for r in text.replace(";", "\n").split("\n") if r] for name, text in lines.items()
        }
    distribution = metadata.distribution("lightning_paras2s")
    found = [Requirement(text) for text in distribution.requires or []]
    wanted = {"": [r for r in found if r.marker is None]}
    for extra in distribution.metadata.get_all("Provides-Extra") or []:
        wanted[extra] = [r for r in found if r.marker is not None and r.marker.evaluate({"extra": extra})]
    return wanted


def unmet(wanted: list[Any]) -> list[str]:
    """Requirements that the installed packages do not meet, each with what there is."""
    wrong = []
    for requirement in wanted:
        version = installed(requirement.name)
        if version == "none":
            wrong.append(f"{requirement.name} none")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version}, not {requirement.specifier}")
    return wrong


def installed(package: str) -> str:
    """A package's version, or "none"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
