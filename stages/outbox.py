"""Records of executions on the local disk: written whole before anything is delivered, kept until it was.

Delivery is a process of its own (`python -m stages.tracking one`), so that it can be stopped in time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.address import masked, reached, root, shown
from stages.bundle import bundle_md5, file_md5
from stages.config import Tracking
from stages.errors import ModelError, PinwerkError, TrackingError
from stages.files import replacing, write_atomically, write_json

FILES = "files"
BUNDLE = "bundle"
RECORD = "record.json"
DELIVERED = "delivered"
ABANDONED = 3600  # seconds after which a draft is what a killed process left
ELSEWHERE = ("git.", "dvc.", "mlflow.")  # tags that say where an execution took place, not what it was
# by hand nobody waits: seconds for one record and one request, instead of tracking.deadline and tracking.timeout
PATIENCE, SLOWEST = 300, 60
LONGEST_REASON = 300  # characters


@dataclass(frozen=True)
class Record:
    """One execution of the pipeline. time is in ms since 1970; datasets maps names to DVC's md5."""

    id: str
    time: int
    name: str | None
    experiment: str
    model: str
    model_md5: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    datasets: dict[str, str]


@dataclass(frozen=True)
class Delivered:
    """Where a record went."""

    run_id: str
    model: str
    version: int


def content_id(record: Record, files: Iterable[Path]) -> str:
    """The id that a record should have: it follows from what is recorded, and not from when, where or at which commit.

    So an execution that is recorded again, after a kill or in another place, is the same run.
    """
    held = {name: value for name, value in asdict(record).items() if name not in ("id", "time", "name")}
    held["tags"] = {key: value for key, value in record.tags.items() if not key.startswith(ELSEWHERE)}
    held["files"] = {path.name: bundle_md5(path) if path.is_dir() else file_md5(path) for path in files}
    return hashlib.md5(json.dumps(held, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def now() -> int:
    return int(time.time() * 1000)


def outbox() -> Path:
    """Where records wait."""
    return root() / "data" / "outbox"


def put(record: Record, files: Iterable[Path], bundle: Path) -> Path:
    """Write the record, a copy of each file or folder, and the bundle into the outbox in one step; its folder.

    One that waits there already is left alone: it may be on its way. Raises TrackingError for a full disk and the like.
    """
    target = outbox() / record.id
    _clear_abandoned()
    try:
        with alone(outbox()):
            if not _whole(target):
                _write(target, record, files, bundle)
    except ModelError:
        raise
    except (OSError, PinwerkError) as error:
        said = str(error).removesuffix("; what was there is kept")
        raise TrackingError(f"{said}: the run would go unrecorded; make room and `dvc repro` again") from None
    return target


def _whole(folder: Path) -> bool:
    try:
        take(folder)
    except TrackingError:
        return False
    return True


def _write(target: Path, record: Record, files: Iterable[Path], bundle: Path) -> None:
    with replacing(target) as folder:
        (folder / FILES).mkdir()
        for path in files:
            _copy(path, folder / FILES / path.name)
        _copy(bundle, folder / BUNDLE)
        write_json(folder / RECORD, asdict(record))


def _copy(source: Path, target: Path) -> None:
    try:
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
    except shutil.Error as error:  # a list of them: the first will do
        raise OSError(str(error.args[0][0][2])) from None
    except OSError as error:
        if error.filename2 is None:
            raise
        raise OSError(error.errno, error.strerror, error.filename2) from None  # it is named after its source


def _clear_abandoned() -> None:
    for draft in outbox().glob(".*-*"):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > ABANDONED:
                shutil.rmtree(draft, ignore_errors=True)


def take(folder: Path) -> Record:
    """The record in a folder of the outbox. Raises TrackingError where it is damaged."""
    try:
        record = Record(**json.loads((folder / RECORD).read_bytes()))
        found = bundle_md5(folder / BUNDLE)
    except (OSError, ValueError, TypeError, ModelError) as error:
        raise TrackingError(f"{folder}: the record is damaged ({error}); remove the folder to give it up") from None
    if (record.id, record.model_md5) != (folder.name, found):
        raise TrackingError(
            f"{folder}: the record is damaged (its bundle has the md5 {found}, expected {record.model_md5}); "
            "remove the folder to give it up"
        )
    return record


def queued() -> list[Path]:
    """Folders of the records that wait, the oldest first; also damaged ones."""
    return sorted((path.parent for path in outbox().glob(f"[!.]*/{RECORD}")), key=_age)


def _age(folder: Path) -> tuple[float, str]:
    try:
        return float(json.loads((folder / RECORD).read_bytes())["time"]), folder.name
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0, folder.name


def settle(folder: Path, done: Delivered) -> None:
    """Note where a record went and remove it; record.json last, so that one half removed still counts as waiting."""
    write_atomically(_note(folder.name), json.dumps(asdict(done), indent=1) + "\n")
    for part in (FILES, BUNDLE):
        shutil.rmtree(folder / part, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def went(id: str) -> Delivered | None:
    """Where the record with this id went; None while it waits, and where another machine has delivered it."""
    try:
        return Delivered(**json.loads(_note(id).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _note(id: str) -> Path:
    return outbox() / DELIVERED / f"{id}.json"


def lock() -> Path:
    """The file that is locked by who must be the only one to write to a store."""
    return outbox() / ".lock"


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, on a file, which is made, or on a folder where it is still there."""
    outbox().mkdir(parents=True, exist_ok=True)
    try:
        held = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def deliver(folder: Path, tracking: Tracking, seconds: float) -> Delivered:
    """Deliver one record and forget it. The same record twice is one run and one version.

    Raises TrackingError with the reason where the store did not take it within `seconds`; the record stays then.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="pinwerk-") as scratch:
            code, out, err = _run_apart(
                ["one", str(folder), str(seconds), str(tracking.timeout)], Path(scratch), seconds
            )
    except subprocess.TimeoutExpired:
        raise TrackingError(f"{shown(tracking)} did not take the record within {seconds:g} s") from None
    except OSError as error:
        raise TrackingError(f"{shown(tracking)}: {error}") from None
    if code:
        lines = [line for line in err.splitlines() if line.strip()] or [f"its process ended with {code}"]
        reason = masked(lines[-1].removeprefix("error: "), tracking)[:LONGEST_REASON]
        raise TrackingError(reason if shown(tracking) in reason else f"{shown(tracking)}: {reason}")
    tree: dict[str, Any] = json.loads(out.splitlines()[-1])
    return Delivered(**tree)


def deliver_all(tracking: Tracking) -> None:
    """Deliver what waits, one after the other; raises TrackingError at the end where some could not be."""
    if tracking.mode == "off":
        raise TrackingError("conf/tracking: mode is off; choose tracking: embedded or server in conf/config.yaml")
    waiting = queued()
    if not waiting:
        print(f"tracking: nothing waits in {outbox()}")
        return
    reached(tracking)
    patient = tracking.model_copy(update={"timeout": max(SLOWEST, tracking.timeout)})
    failed = 0
    for folder in waiting:
        try:
            take(folder)
            done = deliver(folder, patient, PATIENCE)
        except TrackingError as error:
            if folder.exists():
                failed += 1
                print(f"error: {folder.name[:8]}: {error}", file=sys.stderr, flush=True)
            continue  # another process has delivered it meanwhile
        print(f"tracking: {folder.name[:8]} → run {done.run_id}, {done.model} version {done.version}", flush=True)
    if failed:
        raise TrackingError(f"{failed} of {len(waiting)} records were not delivered; they stay in {outbox()}")


def _run_apart(args: list[str], scratch: Path, seconds: float) -> tuple[int, str, str]:
    """Exit code and output of `python -m stages.tracking`; its temporary files lie in scratch; nothing outlives it."""
    foreign = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")  # `mlflow run` sets them
    env = {key: value for key, value in os.environ.items() if key not in foreign}
    out, err = scratch / "out", scratch / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", "stages.tracking", *args],
            env={**env, "TMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            code = child.wait(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return code, out.read_text(encoding="utf-8", errors="replace"), err.read_text(encoding="utf-8", errors="replace")
