"""Where a bundle comes from: commit, data, parameters, library versions. Nothing in it changes from run to run."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stages.bundle import bundle_md5

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


def provenance(params: dict[str, Any], data: Sequence[Path], code: Sequence[str]) -> dict[str, Any]:
    """What determined the bundle: the stage's own parameters, the md5 of each data folder (DVC's), Git and versions.

    The MLflow run is not in here: it is made when the bundle is done; the run carries the bundle's md5 as a tag.
    """
    return {
        "params": params,
        "data": {path.as_posix(): bundle_md5(path) for path in data},
        "git": git_state(code),
        "python": platform.python_version(),
        "libraries": _versions(),
    }


def git_state(code: Sequence[str] = ()) -> dict[str, Any]:
    """The commit, whether the code differs from it, and the DVC experiment; nulls outside a Git repository."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return {
        "commit": os.environ.get("DVC_EXP_BASELINE_REV") or _git("rev-parse", "HEAD"),
        "dirty": None if changed is None else bool(changed),
        "experiment": os.environ.get("DVC_EXP_NAME"),
    }


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
