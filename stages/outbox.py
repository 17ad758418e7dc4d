"""Records of executions on the local disk: written whole before anything is delivered, kept until it was.

Delivery is a process of its own (`python -m stages.tracking one`), so that it can be stopped in time.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from stages.bundle import bundle_md5
from stages.config import Tracking
from stages.errors import ModelError, PinwerkError, TrackingError
from stages.files import replacing, write_json

FILES = "files"
BUNDLE = "bundle"
RECORD = "record.json"
ABANDONED = 3600  # seconds after which a draft is what a killed process left
LONGEST_REASON = 300  # characters

# where MLflow's SQLite store keeps absolute places
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


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


def new_id() -> str:
    """A name of its own for a record; a run that carries it is never made twice."""
    return uuid.uuid4().hex


def now() -> int:
    return int(time.time() * 1000)


def root() -> Path:
    """The real repository's root, also from inside a temporary folder of a DVC experiment."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


def outbox() -> Path:
    """Where records wait."""
    return root() / "data" / "outbox"


def put(record: Record, files: Iterable[Path], bundle: Path) -> Path:
    """Write the record, a copy of each file or folder, and the bundle into the outbox in one step; its folder.

    Raises TrackingError for a full disk and the like.
    """
    target = outbox() / record.id
    _clear_abandoned()
    try:
        with replacing(target) as folder:
            (folder / FILES).mkdir()
            for path in files:
                _copy(path, folder / FILES / path.name)
            _copy(bundle, folder / BUNDLE)
            write_json(folder / RECORD, asdict(record))
    except ModelError:
        raise
    except PinwerkError as error:
        said = str(error).removesuffix("; what was there is kept")
        raise TrackingError(f"{said}: the run would go unrecorded; make room and `dvc repro` again") from None
    return target


def _copy(source: Path, target: Path) -> None:
    try:
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
    except shutil.Error as error:  # a list of them: the first will do
        raise OSError(str(error.args[0][0][2])) from None


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


def forget(folder: Path) -> None:
    """Remove a delivered record; record.json last, so that one half removed still counts as waiting."""
    for part in (FILES, BUNDLE):
        shutil.rmtree(folder / part, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


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
            code, out, err = _run_apart(["one", str(folder), str(seconds)], Path(scratch), seconds)
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


def follow(tracking: Tracking) -> None:
    """Tell the embedded store where it is now: a repository that was moved or copied would write to the old place."""
    store, here = root() / "mlflow.db", (root() / "mlartifacts").as_uri()
    if tracking.mode != "embedded" or not store.exists():
        return
    with closing(sqlite3.connect(store, timeout=60)) as db, db:
        tables = {name for (name,) in db.execute("select name from sqlite_master where type = 'table'")}
        if "experiments" not in tables:
            return
        query = "select distinct artifact_location from experiments where artifact_location like 'file://%/mlartifacts'"
        for (old,) in db.execute(query).fetchall():
            for table, column in PLACES if old != here else ():
                moved = (
                    f"update {table} set {column} = ? || substr({column}, ?) where substr({column} || '/', 1, ?) = ?"
                )
                db.execute(moved, (here, len(old) + 1, len(old) + 1, f"{old}/"))


def reached(tracking: Tracking) -> None:
    """Raise TrackingError at once where nobody listens: a look costs less than importing mlflow."""
    try:
        parts = urlsplit(tracking.uri or "")
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        host = parts.hostname
    except ValueError as error:
        raise TrackingError(f"{shown(tracking)} is no address ({error}); correct tracking.uri") from None
    if port is None or not host or (parts.scheme in getproxies() and not proxy_bypass(host)):
        return  # a database, a service known by name, or behind a proxy
    try:
        with socket.create_connection((host, port), timeout=tracking.timeout):
            return
    except OSError as error:
        raise TrackingError(f"{shown(tracking)} cannot be reached ({error.strerror or error})") from None


def shown(tracking: Tracking) -> str:
    """The store as messages name it, without user and password."""
    if tracking.uri is None:
        return "the embedded store"
    scheme, mark, rest = tracking.uri.split("?", 1)[0].rpartition("://")
    return f"the tracking server {scheme}{mark}{rest.rpartition('@')[2]}"


def masked(text: str, tracking: Tracking) -> str:
    """Text without what is secret in the URI and the environment."""
    secrets = [os.environ.get("MLFLOW_TRACKING_PASSWORD"), os.environ.get("MLFLOW_TRACKING_TOKEN")]
    with suppress(ValueError):
        parts = urlsplit(tracking.uri or "")
        secrets.append(parts.password)
        text = text.replace(f"{parts.username}:{parts.password}@", "")
    for secret in filter(None, secrets):
        text = text.replace(secret, "***").replace(unquote(secret), "***")
    return text
