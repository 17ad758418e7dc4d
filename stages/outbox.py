"""Records of executions on the local disk: written whole before anything is delivered, kept until it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.errors import TrackingError
from stages.files import read_json, replacing, write_json

FILES = "files"
BUNDLE = "bundle"


@dataclass(frozen=True)
class Record:
    """One execution of the pipeline. time is in ms since 1970; datasets maps names to DVC's md5."""

    id: str
    time: int
    name: str | None
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    datasets: dict[str, str]
    model_md5: str


def new_id() -> str:
    """A name of its own for a record; a run that carries it is never made twice."""
    return uuid.uuid4().hex


def now() -> int:
    return int(time.time() * 1000)


def root() -> Path:
    """The real repository's root, also from inside a temporary folder of a DVC experiment."""
    if "DVC_ROOT" in os.environ:
        return Path(os.environ["DVC_ROOT"])
    done = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else Path.cwd()


def outbox() -> Path:
    """Where records wait."""
    return root() / "data" / "outbox"


def put(record: Record, files: Iterable[Path], bundle: Path) -> Path:
    """Write the record, a copy of each file or folder, and the bundle into the outbox in one step; its folder."""
    target = outbox() / record.id
    with replacing(target) as folder:
        for path in files:
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            (folder / FILES).mkdir(exist_ok=True)
            copy(path, folder / FILES / path.name)
        shutil.copytree(bundle, folder / BUNDLE)
        write_json(folder / "record.json", asdict(record))
    return target


def take(folder: Path) -> Record:
    """The record in a folder of the outbox. Raises TrackingError where it is damaged."""
    tree: dict[str, Any] = read_json(folder / "record.json")
    try:
        return Record(**tree)
    except TypeError as error:
        raise TrackingError(f"{folder}: not a record ({error}); remove the folder") from None


def queued() -> list[Path]:
    """Folders of the records that wait, the oldest first."""
    folders = [path.parent for path in outbox().glob("[!.]*/record.json")]
    return sorted(folders, key=lambda folder: (json.loads((folder / "record.json").read_bytes())["time"], folder.name))


def forget(folder: Path) -> None:
    """Remove a delivered record."""
    shutil.rmtree(folder, ignore_errors=True)
