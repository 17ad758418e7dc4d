"""The address of MLflow: looked at before anything is sent, and never shown with its secrets."""

from __future__ import annotations

import socket

import pytest

from stages.address import masked, reached, shown
from stages.config import Tracking
from stages.errors import TrackingError

SERVER = Tracking(mode="server", uri="http://127.0.0.1:5000", experiment="e", model="m", timeout=1, deadline=5)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://ann:s3cret@host/mlflow", "https://host/mlflow"),
        ("https://ann:p@ss@host:99999?token=s3cret", "https://host:99999"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("databricks", "databricks"),
        ("postgresql://u:s3cret@db/mlflow", "postgresql://db/mlflow"),
    ],
)
def test_a_store_is_named_without_user_and_password(uri: str, name: str) -> None:
    assert shown(SERVER.model_copy(update={"uri": uri})) == f"the tracking server {name}"


def test_secrets_are_masked_however_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    there = SERVER.model_copy(update={"uri": "http://ann:s%23cret@host"})
    assert masked("s%23cret, s#cret and t0ken", there) == "***, *** and ***"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:{port}", "cannot be reached .Connection refused"),
        ("http://ann:s3cret@127.0.0.1:{port}", "server http://127.0.0.1:[0-9]+ cannot be reached"),
        ("http://nowhere.invalid:80", "cannot be reached"),
        ("http://127.0.0.1:99999", "is no address"),
    ],
)
def test_a_server_that_nobody_runs_is_told_at_once(uri: str, reason: str) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets it, and it refuses
        there = SERVER.model_copy(update={"uri": uri.format(port=held.getsockname()[1])})
        with pytest.raises(TrackingError, match=reason):
            reached(there)


@pytest.mark.parametrize("path", ["", "/mlflow/"])
def test_a_server_that_accepts_and_says_nothing_is_told_without_importing_mlflow(path: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://ann:s3cret@127.0.0.1:{silent.getsockname()[1]}{path}"
        with pytest.raises(TrackingError, match=r"server http://127\.0\.0\.1:[0-9]+.* did not answer within 0\.2 s$"):
            reached(SERVER.model_copy(update={"uri": uri, "timeout": 0.2}))
        there, _ = silent.accept()
        with there:
            asked = there.recv(1000).decode()
    assert asked.startswith(f"GET {path.rstrip('/')}/health HTTP/1.1\r\nHost: 127.0.0.1:")
    assert "s3cret" not in asked
    assert asked.endswith("\r\n\r\n")


@pytest.mark.parametrize("uri", ["databricks", "sqlite:////tmp/x.db", "postgresql://db/mlflow"])
def test_a_store_that_speaks_no_http_is_not_looked_for(uri: str) -> None:
    reached(SERVER.model_copy(update={"uri": uri}))
