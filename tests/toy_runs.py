"""Toy runs from the command line's config on, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_paras2s.errors import UserError


def refused(stage: str, *options: str, command: str = "fit") -> str:
    """The one line of a run that must not begin; it leaves no folder."""
    with pytest.raises(UserError) as error:
        run(stage, *options, command=command)
    assert not Path("runs").exists()
    return str(error.value)


def run(stage: str, *options: str, command: str = "fit") -> None:
    """As `main`, which tells a `UserError` in one line, with the error itself."""
    from test_runs import toy_config

    from lightning_paras2s.cli import dispatch
    from lightning_paras2s.errors import user_error

    Path("toy.yaml").write_text(toy_config(stage))
    try:
        dispatch([command, "--config", "toy.yaml", *options])
    except Exception as error:
        if (mistake := user_error(error)) is None:
            raise
        assert "\n" not in " ".join(str(mistake).split())
        raise mistake from error
