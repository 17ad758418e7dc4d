"""Where a bundle comes from. Only what determines it: equal models have one md5, wherever and whenever they are made.

Which commit and which experiment that was is not in the bundle: Git's history of dvc.lock and the MLflow run say it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stages.bundle import bundle_md5, file_md5


def provenance(
    params: dict[str, Any], data: Sequence[Path], code: Iterable[str], versions: dict[str, str]
) -> dict[str, Any]:
    """What determined the bundle: the stage's own parameters, the md5 of each data folder (DVC's), code and versions.

    code: files and folders of our own that the stage runs.
    """
    return {
        "params": params,
        "data": {path.as_posix(): bundle_md5(path) for path in data},
        "code": code_md5(code),
        "python": versions["python"],
        "libraries": {name: found for name, found in versions.items() if name != "python"},
    }


def code_md5(code: Iterable[str]) -> str:
    """One md5 for files and what is in folders, less what Python caches."""
    files = {file for path in map(Path, code) for file in (path.rglob("*") if path.is_dir() else [path])}
    held = {file.as_posix(): file_md5(file) for file in files if file.is_file() and file.suffix != ".pyc"}
    return hashlib.md5(json.dumps(held, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def git_state(paths: Sequence[str]) -> dict[str, Any]:
    """The commit, whether the paths differ from it (new files too), the DVC experiment; nulls where there is no Git."""
    changed = _git("status", "--porcelain", "--untracked-files=normal", "--", *paths)
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
