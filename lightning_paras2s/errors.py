"""Mistakes that a user can mend, and how the command line tells them."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Callable, Iterable, Sequence

# a disk or a folder that takes no (more) files, or a path that is no file's
DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR, errno.EISDIR)
DISK += (errno.EEXIST, errno.ENAMETOOLONG)
InputPath = str  # of a file or folder that must be there: the command line looks before it imports anything


class UserError(Exception):
    """A mistake the user can mend: one clear line (what must hold, what came, what to do). The command line exits with
    code 2."""


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def check_some(name: str, values: Sequence[str], choices: Sequence[str], none: bool = False) -> None:
    """Refuse what is no list of some of the choices; `none`: an empty one is a choice, too."""
    if set(values) - set(choices) or len(set(values)) < len(values) or not (values or none):
        got = ", ".join(values) or "none"
        raise UserError(f"{name} must be some of {', '.join(choices)}, each once; got {got}")


def check_least(name: str, value: int, least: int, remedy: str) -> None:
    if value < least:
        raise UserError(f"{name} must be at least {least}; got {value}; {remedy}")


def check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"{name} is a share, from 0 to 1; got {value}; 20 % are 0.2")


def check_apart(train: Iterable[str], val: Iterable[str]) -> None:
    """Refuse a query that both training and validation have, by their ids."""
    if shared := set(train) & set(val):
        raise UserError(
            f"training and validation must not share queries; got {min(shared)!r} in both; give other queries"
        )


def check_batch_size(size: int, name: str = "batch_size") -> None:
    if size < 1:
        raise UserError(f"a batch size must be at least 1; got {size}; set data.{name}")


def check_rounding(dtype: str, state_bits: int) -> None:
    """Refuse to train weights of a 16-bit type whose steps are rounded to the nearest.

    Raises:
        UserError: at usual rates a step is less than half of what lies between two such numbers: nothing would move.
    """
    if dtype == "float32" or (dtype, state_bits) == ("bfloat16", 8):
        return
    raise UserError(
        f"weights that train must be float32, or bfloat16 with 8-bit moments, whose steps are rounded at random; got "
        f"{dtype} with {state_bits}-bit moments, where small steps are lost; set the policy's dtype: float32 or a "
        "lora_rank, or model.state_bits: 8"
    )


def no_shards(model: object) -> UserError:
    """Why a model's weights are not split over ranks."""
    return UserError(
        f"{type(model).__name__} is too small to be sharded; got a sharding strategy; use DDP or one process"
    )


class OneLineErrors:
    """Makes an argument parser raise a `UserError` of one line where it would print its usage."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        raise UserError(" ".join(message.split()))


def user_error(error: BaseException | None) -> UserError | None:
    """The `UserError` that an exception is, or was raised from."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def of_disk(error: BaseException) -> UserError | None:
    """What a disk or a folder that takes no files is told as; None for another error."""
    if isinstance(error, OSError) and error.errno in DISK:
        return UserError(f"the run must be able to write its files; got: {error}; free or change the place")
    return None


def tell_in_one_line(program: Callable[[], None], also: tuple[type[Exception], ...] = (OSError,)) -> None:
    """Run a program; what the user can mend (and `also`: a file that can't be read or written) is one line and exit
    code 2, Ctrl-C one line and 130. Where nobody reads what is printed any more (`| head`), it ends with 141, as a
    program does that the system ends for that."""
    try:
        program()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("error: ended by Ctrl-C; the same command goes on with what is done", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        if not stdout_is_gone():
            raise
        sys.exit(141)
    except Exception as error:  # jsonargparse wraps what a constructor raises
        cause = user_error(error) or of_disk(error) or (error if isinstance(error, also) else None)
        if cause is None:
            raise
        print(f"error: {' '.join(str(cause).split())}", file=sys.stderr)
        sys.exit(2)


def stdout_is_gone() -> bool:
    """Whether what is printed has no reader; what waits to be printed is then dropped, so that the end is quiet."""
    try:
        asked = select.poll()
        asked.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # it is no file of the system's
        return False
    gone = any(event & select.POLLERR for _, event in asked.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone
