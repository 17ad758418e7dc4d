"""Errors that a person can act on: each says the file, the key, the value, what was expected and the next step."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable


class PinwerkError(Exception):
    """A problem in the input, the config or the surroundings; shown without a traceback."""


class ConfigError(PinwerkError):
    """conf/ or params.yaml says something that cannot be right."""


class DataError(PinwerkError):
    """A table, a column or a row is not what the config promises."""


class ModelError(PinwerkError):
    """A model bundle is missing, damaged or does not do what its signature says."""


class TrackingError(PinwerkError):
    """The record could not be delivered to MLflow."""


_NEXT = {
    errno.ENOSPC: "make room on the disk and run it again",
    errno.EDQUOT: "make room within your quota and run it again",
    errno.EACCES: "allow this user to, and run it again",
    errno.EPERM: "allow this user to, and run it again",
    errno.EROFS: "mount the file system for writing and run it again",
    errno.EMFILE: "raise the limit of open files (ulimit -n) and run it again",
}


def run_stage(main: Callable[[], None]) -> None:
    """Run `main`; print a PinwerkError, or an error of the system, as one plain message and exit 1.

    PINWERK_DEBUG=1 shows the traceback.
    """
    try:
        main()
    except (PinwerkError, OSError) as error:
        if os.environ.get("PINWERK_DEBUG"):
            raise
        print(f"error: {_of_the_system(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        raise SystemExit(1) from None


def _of_the_system(error: OSError) -> str:
    """The file, the reason and what to do. Not every such error knows its file, as when a disk is full."""
    file = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    step = _NEXT.get(error.errno or 0, "PINWERK_DEBUG=1 shows where in the program it happened")
    return f"{file}{reason}; {step}"
