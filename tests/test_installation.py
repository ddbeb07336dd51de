"""The installation: what is locked, what the installer and `doctor` say, and that it all works from any folder."""

from __future__ import annotations

import configparser
import hashlib
import importlib.util
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lightning_paras2s.errors import UserError
from lightning_paras2s.running import shipped

ROOT = Path(__file__).parents[1]
INSTALLER = ROOT / ".ci/install.py"
spec = importlib.util.spec_from_file_location("install", INSTALLER)
installer = importlib.util.module_from_spec(spec)
sys.modules["install"] = installer
spec.loader.exec_module(installer)


WITHOUT_EXTRAS = """
import importlib, pkgutil, sys
import lightning_paras2s

sys.modules.update(dict.fromkeys({extras}))  # None: neither imported nor found
for module in pkgutil.walk_packages(lightning_paras2s.__path__, "lightning_paras2s."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def test_every_module_imports_when_no_extra_is_installed():
    extras = {"opensmile", "pytest", "torchao", "trl", "openai", "aiohttp", "whisper", "gradio", "uv"}
    extras |= {"starlette", "uvicorn", "sacrebleu", "rouge_score"}
    code = WITHOUT_EXTRAS.replace("{extras}", repr(extras))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_lock_meets_the_ranges_of_every_extra_with_hashes_and_names_no_host():
    text = (ROOT / installer.LOCK).read_text()
    assert "://" not in text and "--index" not in text and "--find-links" not in text and "/work" not in text
    packages = installer.read_lock(text)
    assert sum(re.match(r"[\w.-]+==", line) is not None for line in text.splitlines()) == len(packages)
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = {"base": config["options"]["install_requires"]} | dict(config["options.extras_require"])
    for extra, lines in wanted.items():
        for requirement in map(Requirement, filter(None, lines.replace(";", "\n").split("\n"))):
            found = [p for p in packages if p.name == requirement.name and {"base", extra} & set(p.extras)]
            assert found, f"{requirement} of {extra} is not locked: make lock"
            for package in found:
                version = re.match(r"[\w.-]+==([^\s;]+)", package.lines)[1]
                assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: {version}"
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", package.lines) for package in packages)


LOCKED = """# for: base
torch==2.15.0 \\
    --hash=sha256:aa
# for: base
nvidia-cublas==13.4.1.3 ; sys_platform == 'linux' \\
    --hash=sha256:bb \\
    --hash=sha256:cc
# for: audit test
pandas==3.1.1 \\
    --hash=sha256:dd
# for: bench
trl==1.16.0 \\
    --hash=sha256:ee
"""


def test_selection_holds_the_base_and_the_extras_asked_for():
    packages = installer.read_lock(LOCKED)
    assert installer.select(packages, ["test", "bench"], cpu=False).count("==") - 1 == 4  # one == is in a marker
    assert "trl" not in installer.select(packages, ["audit"], cpu=False)
    assert installer.select(packages, ["audit"], cpu=True) == "pandas==3.1.1 \\\n    --hash=sha256:dd\n"
    assert installer.select(packages, ["bench"], cpu=False, base=False) == "trl==1.16.0 \\\n    --hash=sha256:ee\n"
    assert installer.torch_pair(packages) == ["torch==2.15.0"]


def wheel(folder: Path, payload: int = 1) -> tuple[Path, str]:
    """A wheel of one module, and its hash."""
    info = "thing-1.0.dist-info"
    files = {
        "thing.py": "x = '" + os.urandom(payload).hex() + "'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    folder.mkdir(parents=True)
    path = folder / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def install(tmp_path: Path, sha: str, limit: int | None = None, **environment: str) -> subprocess.CompletedProcess:
    """The installer with a lock of one package, into a folder; `limit`: no file may be larger."""
    (tmp_path / "lock").write_text(f"# for: base\nthing==1.0 \\\n    --hash=sha256:{sha}\n")
    plain = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    plain |= {"PIP_CONFIG_FILE": os.devnull, "PIP_TARGET": str(tmp_path / "there"), "PIP_NO_CACHE_DIR": "1"}
    command = [sys.executable, str(INSTALLER), "", "--only-packages", "--lock", "lock", "--log", "log"]
    cap = None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return subprocess.run(
        command, cwd=tmp_path, env=plain | environment, capture_output=True, text=True, preexec_fn=cap
    )


def test_package_is_installed_when_its_hash_fits(tmp_path):
    path, sha = wheel(tmp_path / "wheels")
    done = install(tmp_path, sha, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(path.parent))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there/thing.py").is_file()


@pytest.mark.parametrize(
    "trouble, must",
    [
        ("hash", "every package must be the file that requirements.lock names; got another hash: thing==1.0"),
        ("network", "the package index must be reachable; got"),
        ("disk", "the disk must have room for the packages; got"),
        ("constraint", "this machine's pip settings must admit what requirements.lock names; got The user requested"),
        ("gone", "the index must have what requirements.lock names; got"),
    ],
)
def test_failed_installation_is_one_line(tmp_path, trouble, must):
    path, sha = wheel(tmp_path / "wheels", 200_000 if trouble == "disk" else 1)
    local = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(path.parent)}
    (tmp_path / "constraints").write_text("thing<1\n")
    (tmp_path / "none").mkdir()
    done = {
        "hash": lambda: install(tmp_path, "0" * 64, **local),
        "network": lambda: install(tmp_path, sha, PIP_INDEX_URL="http://127.0.0.1:9/simple"),
        "disk": lambda: install(tmp_path, sha, limit=100_000, **local),
        "constraint": lambda: install(tmp_path, sha, PIP_CONSTRAINT="constraints", **local),
        "gone": lambda: install(tmp_path, sha, **(local | {"PIP_FIND_LINKS": str(tmp_path / "none")})),
    }[trouble]()
    errors = done.stderr.splitlines()
    assert done.returncode == 2 and len(errors) == 1, done.stderr
    assert errors[0].startswith(f"error: {must}"), errors[0]
    assert not (tmp_path / "there/thing.py").exists()


def test_first_installation_is_refused_when_the_disk_is_too_full(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        installer.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**10, 7 * 10**9, 3 * 10**9)
    )
    monkeypatch.setattr(installer.sys, "prefix", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        installer.check_disk(tmp_path, 9)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "9 GB free for the packages; got 3.0 GB" in error


def test_weights_are_found_here_first_then_in_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "checkpoints/embedded/style.safetensors"
    assert shipped.weights_file(name) == shipped.PACKAGE / name
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    assert shipped.weights_file(name) == Path(name)


@pytest.mark.parametrize(
    "path, must",
    [
        ("checkpoints/embedded/sft_fith.safetensors", r"did you mean sft_fifth\.safetensors\? The package has acts"),
        (
            "runs/sft/mine/policy.safetensors",
            "`python -m lightning_paras2s fit --config sft.yaml --trainer.logger.version mine` makes it",
        ),
        ("elsewhere.safetensors", "train them or check the path"),
    ],
)
def test_absent_weights_name_their_remedy(path, must, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=must):
        shipped.weights_file(path)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The wheel of a clean copy, unpacked; its size is checked."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("lightning_paras2s", "checkpoints", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(target),
        ".",
    ]
    subprocess.run(command, cwd=source, check=True)
    (path,) = target.glob("*.whl")
    assert path.stat().st_size < 40e6
    with zipfile.ZipFile(path) as archive:
        archive.extractall(target / "site")
    return target / "site"


def elsewhere(site: Path, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A command of the unpacked wheel in another folder."""
    plain = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-m", "lightning_paras2s", *arguments]
    settings = plain | {"PYTHONPATH": str(site)} | environment
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)


def test_wheel_holds_every_shipped_weight_and_config(unpacked):
    inside = unpacked / "lightning_paras2s"
    for line in (ROOT / "checkpoints/embedded/SHA256SUMS").read_text().splitlines():
        sha, name = line.split()
        assert hashlib.sha256((inside / "checkpoints/embedded" / name).read_bytes()).hexdigest() == sha
    configs = {p.relative_to(ROOT / "configs") for p in (ROOT / "configs").rglob("*.yaml")}
    assert {p.relative_to(inside / "configs") for p in (inside / "configs").rglob("*.yaml")} == configs


def test_wheel_builds_what_a_config_names_in_an_empty_folder(unpacked, tmp_path):
    done = elsewhere(unpacked, tmp_path, "evaluate", "--config", "evaluate.yaml", "--manifest", os.devnull, "--check")
    assert done.returncode == 0, done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.slow  # it speaks the whole text set: a minute
def test_wheel_trains_in_an_empty_folder(unpacked, tmp_path):
    options = ("--trainer.max_steps", "1", "--data.batch_size", "2", "--trainer.precision", "32-true")
    done = elsewhere(unpacked, tmp_path, "fit", "--config", "grpo.yaml", *options)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"runs", "cache"}


def test_torchaudio_of_another_torch_is_one_line(tmp_path):
    """A stand-in that fails as torchaudio 2.11.1 does on torch 2.11.0."""
    (tmp_path / "site/torchaudio").mkdir(parents=True)
    failure = 'raise OSError("libtorchaudio.so: undefined symbol: torch_exception_get_what_without_backtrace")'
    (tmp_path / "site/torchaudio/__init__.py").write_text(failure)
    site = f"{tmp_path / 'site'}{os.pathsep}{ROOT}"
    done = elsewhere(Path(site), tmp_path, "evaluate", "--config", "evaluate.yaml", "--manifest", os.devnull, "--check")
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert len(errors) == 1 and "torch 2.13 to 2.15 with torchaudio 2.11.1" in errors[0]
    told = elsewhere(Path(site), tmp_path, "doctor", "--json")
    assert told.returncode == 2
    findings = json.loads(told.stdout.splitlines()[-1])["findings"]
    assert [f["name"] for f in findings if f["level"] == "broken"] == ["torch"]
