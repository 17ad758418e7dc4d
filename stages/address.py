"""Where MLflow is: its address, whether somebody answers there, and how messages may show it."""

from __future__ import annotations

import os
import socket
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from stages.config import Tracking
from stages.errors import TrackingError

# where MLflow's SQLite store keeps absolute places
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


def root() -> Path:
    """The real repository's root, also from inside a temporary folder of a DVC experiment."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


def store_uri(tracking: Tracking) -> str:
    """The tracking URI: the server's, or SQLite at the root of the real repository."""
    return tracking.uri or f"sqlite:///{root() / 'mlflow.db'}"


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
    """Raise TrackingError where nobody listens, or answers: a look costs less than importing mlflow."""
    try:
        parts = urlsplit(tracking.uri or "")
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        host = parts.hostname
    except ValueError as error:
        raise TrackingError(f"{shown(tracking)} is no address ({error}); correct tracking.uri") from None
    if port is None or not host or (parts.scheme in getproxies() and not proxy_bypass(host)):
        return  # a database, a service known by name, or behind a proxy
    try:
        with socket.create_connection((host, port), timeout=tracking.timeout) as there:
            answered = parts.scheme != "http" or _answers(there, parts)
    except OSError as error:
        raise TrackingError(f"{shown(tracking)} cannot be reached ({error.strerror or error})") from None
    if not answered:
        raise TrackingError(f"{shown(tracking)} did not answer within {tracking.timeout:g} s")


def _answers(there: socket.socket, parts: SplitResult) -> bool:
    """Whether a first byte comes in time, whatever it says: mlflow will judge it."""
    host = parts.netloc.rpartition("@")[2]
    there.sendall(f"GET {parts.path.rstrip('/')}/health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    try:
        return bool(there.recv(1))
    except TimeoutError:
        return False


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
