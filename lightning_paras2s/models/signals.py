"""torchaudio's three signal functions, or one line that tells which torch and torchaudio work together."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from lightning_paras2s.errors import UserError

WORKING_PAIR = "torch 2.13 to 2.15 with torchaudio 2.11.1"


def installed(package: str) -> str:
    """A package's version, or "none"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def pair_error(error: Exception) -> UserError:
    """What to say when torchaudio's compiled extension does not fit torch."""
    got = f"torch {installed('torch')} with torchaudio {installed('torchaudio')} ({str(error).splitlines()[0]})"
    remedy = "pip install --upgrade 'torch>=2.13,<2.16' 'torchaudio>=2.11.1,<2.12', both from the same index"
    return UserError(f"torchaudio must be built for the installed torch ({WORKING_PAIR}); got {got}; {remedy}")


try:
    from torchaudio.functional import create_dct, melscale_fbanks, resample
except (ImportError, OSError, RuntimeError) as error:
    raise pair_error(error) from error

__all__ = ["create_dct", "melscale_fbanks", "resample"]
