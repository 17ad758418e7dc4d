"""Errors that a person can act on: each says the file, the key, the value, what was expected and the next step."""

from __future__ import annotations

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


def run_stage(main: Callable[[], None]) -> None:
    """Run `main`; print a PinwerkError as one plain message and exit 1 (PINWERK_DEBUG=1 shows the traceback)."""
    try:
        main()
    except PinwerkError as error:
        if os.environ.get("PINWERK_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
