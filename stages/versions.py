"""The libraries that a model comes from, in data/versions.json: `train` depends on it, so that DVC sees an upgrade."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stages.errors import ConfigError
from stages.files import write_atomically

VERSIONS = Path("data/versions.json")
LIBRARIES = (
    "scikit-learn",
    "numpy",
    "scipy",
    "pandas",
    "skops",
    "onnx",
    "onnxruntime",
    "lightgbm",
    "xgboost-cpu",
    "xgboost",
)


def versions() -> dict[str, str]:
    """The versions of Python and of those libraries that are installed; none of them is imported."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def pin() -> None:
    """Write what is installed. The same versions are the same bytes."""
    write_atomically(VERSIONS, json.dumps(versions(), indent=1) + "\n")


def pinned() -> dict[str, str]:
    """What is pinned. Raises ConfigError where something else is installed: the model would not be what DVC pins."""
    installed = versions()
    try:
        there = json.loads(VERSIONS.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{VERSIONS}: cannot be read ({error}); `dvc repro -f configure` writes it") from None
    apart = differing(there, installed)
    if apart:
        raise ConfigError(f"{VERSIONS}: {apart}; `dvc repro -f configure` pins what is installed")
    return installed


def differing(expected: dict[str, str], found: dict[str, str]) -> str:
    """The versions that are not the same, such as "numpy 2.4.1 (here 2.3.0)"; "" where all are."""
    names = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    return ", ".join(f"{name} {expected.get(name, 'none')} (here {found.get(name, 'none')})" for name in names)
