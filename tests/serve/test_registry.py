"""MLflow's registry, asked without MLflow: a real server, the embedded store, and servers that do not do their work."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

import serve.registry
import stages.tracking
from serve.pins import Aliases
from serve.registry import MD5, Embedded, Server, registry
from stages.errors import ConfigError, ModelError
from tests.conftest import environment
from tests.serve.service import web

A, B = "a" * 32 + ".dir", "b" * 32 + ".dir"
REGISTER = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
client = mlflow.MlflowClient()
client.create_registered_model("flights & co")
for md5 in sys.argv[2:]:
    client.create_model_version("flights & co", "file:///nowhere", tags={"md5": md5} if md5 else {})
client.set_registered_model_alias("flights & co", "champion", "1")
client.set_registered_model_alias("flights & co", "next-one", "2")
client.set_registered_model_alias("flights & co", "bare", "3")
"""
QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded store in which MLflow's own client has set aliases on versions that carry A, B and no md5."""
    folder = tmp_path_factory.mktemp("registry")
    path = folder / "a store.db"
    command = [sys.executable, "-W", "ignore", "-c", REGISTER, f"sqlite:///{path}", A, B, ""]
    subprocess.run(command, check=True, cwd=folder, env={**environment(folder), **QUIET}, capture_output=True)
    return path


@pytest.fixture(scope="module")
def url(store: Path) -> Iterator[str]:
    """A real server on that store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers=1", "--host=127.0.0.1", f"--port={port}"]
    env = {**environment(store.parent), **QUIET}
    with (store.parent / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--backend-store-uri=sqlite:///{store}"], cwd=store.parent, env=env, stdout=log, stderr=log
        )
    try:
        for _ in range(300):
            assert process.poll() is None, (store.parent / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.slow
def test_a_server_and_the_embedded_store_say_which_version_an_alias_points_to(url: str, store: Path) -> None:
    for asked in (registry(url), registry(f"{url}/"), registry(f"sqlite:///{store}")):
        assert asked.version("flights & co", "champion") == ("1", A)
        assert asked.version("flights & co", "next-one") == ("2", B)
        assert asked.version("flights & co", "bare") == ("3", None)
        assert asked.version("flights & co", "nothing") is None
        assert asked.version("nothing", "champion") is None


def test_an_alias_that_moves_is_followed_and_one_that_goes_takes_its_challenger_along(store: Path) -> None:
    pins = Aliases(registry(f"sqlite:///{store}"), "flights & co", {"champion": "champion", "challenger": "next-one"})
    assert [pins.md5(variant) for variant in pins.variants] == [A, B]
    with sqlite3.connect(store) as db:
        db.execute("update registered_model_aliases set version = 2 where alias = 'champion'")
    assert pins.md5("champion") == B
    with sqlite3.connect(store) as db:
        db.execute("update registered_model_aliases set version = 1 where alias = 'champion'")
    db.close()
    gone = Aliases(registry(f"sqlite:///{store}"), "flights & co", {"champion": "no", "challenger": "no"})
    assert gone.md5("challenger") is None
    with pytest.raises(ModelError, match="flights & co has no alias 'no'; set it on a version"):
        gone.md5("champion")
    bare = Aliases(registry(f"sqlite:///{store}"), "flights & co", {"champion": "bare"})
    with pytest.raises(ModelError, match=r"version 3 of flights & co has the tag md5 None, expected the md5"):
        bare.md5("champion")


def test_the_tag_is_the_one_that_tracking_gives() -> None:
    assert MD5 == stages.tracking.MD5


def test_a_store_that_is_missing_or_damaged_is_told_and_never_made(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"mlflow.db: there is no such file"):
        Embedded(tmp_path / "mlflow.db").version("m", "a")
    assert not (tmp_path / "mlflow.db").exists()
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(ModelError, match=r"mlflow.db: cannot be read \(file is not a database\)"):
        Embedded(tmp_path / "mlflow.db").version("m", "a")


def test_another_kind_of_registry_is_refused() -> None:
    for uri in ("databricks://x", "mlruns", "postgresql://host/db"):
        with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI: serve asks registries at"):
            registry(uri)


class Answering(BaseHTTPRequestHandler):
    """Answers what the class says; keeps the headers that it was sent."""

    status, body = 200, b""
    location: str | None = None
    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        self.seen.append({**self.headers})
        self.send_response(self.status)
        if self.location is not None:
            self.send_header("Location", self.location)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


def answering(status: int = 200, body: bytes = b"", location: str | None = None) -> type[Answering]:
    return type("_", (Answering,), {"status": status, "body": body, "location": location, "seen": []})


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>", r"does not answer as MLflow does \(no JSON"),
        (200, b"[]", "does not answer as MLflow does"),
        (200, b"{}", "does not answer as MLflow does"),
        (200, b'{"model_version": {"version": 1, "tags": [1]}}', "does not answer as MLflow does"),
        (200, b'"' + b"x" * 1_100_000 + b'"', "does not answer as MLflow does"),
        (500, b"oops", "answers 500"),
        (401, b"", "answers 401"),
        (404, b"<html>not found</html>", "answers 404"),
        (404, b'{"error_code": "OTHER", "message": "not found"}', "answers 404"),
    ],
)
def test_garbage_is_told(status: int, body: bytes, said: str) -> None:
    with web(answering(status, body)) as address, pytest.raises(ModelError, match=rf"http://{address}: {said}"):
        Server(f"http://ann:s3cret@{address}").version("m", "a")


def test_a_server_that_is_down_or_says_nothing_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.registry, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ModelError, match=rf"^http://{address}: did not answer within 0.2 s"):
            Server(f"http://ann:s3cret@{address}").version("m", "a")
    with pytest.raises(ModelError, match=rf"^http://{address}: cannot be reached .*refused") as told:
        Server(f"http://ann:s3cret@{address}").version("m", "a")
    assert "s3cret" not in str(told.value)


def test_user_and_password_or_a_token_are_sent_to_the_server_and_not_where_it_redirects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = b'{"model_version": {"version": "7", "tags": [{"key": "md5", "value": "x"}]}}'
    other = answering(body=found)
    with web(other) as there:
        first = answering(302, location=f"http://{there}/")
        with web(first) as address:
            for name in ("USERNAME", "PASSWORD", "TOKEN"):
                monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
            assert Server(f"http://{address}").version("m", "a") == ("7", "x")
            Server(f"http://ann:s%40cret@{address}").version("m", "a")
            monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token")
            Server(f"http://{address}").version("m", "a")
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pass")
            Server(f"http://{address}").version("m", "a")
    sent = [headers.get("Authorization") for headers in first.seen]
    assert sent == [None, "Basic YW5uOnNAY3JldA==", "Bearer token", "Basic Ym9iOnBhc3M="]
    assert all("Authorization" not in headers for headers in other.seen)
