"""The service starts as SageMaker and Vertex AI start it, and ends as they end it."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve.__main__ import fetched, surroundings
from stages.errors import ModelError
from tests.conftest import ROOT, environment
from tests.serve.running import lay_out


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def ask(url: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: bytes = answer.read()
    return content


@contextmanager
def started(home: Path, scratch: Path, *arguments: str, port: int, **variables: str) -> Iterator[str]:
    """`python -m serve …`; it has to end within seconds of a SIGTERM."""
    env = {**environment(scratch), "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "serve", *arguments]
    process = subprocess.Popen(command, cwd=home, env=env, stderr=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            try:
                ask(f"{url}/ping")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_vertex_ai_gets_its_routes_on_its_port_with_the_bundle_from_its_storage(
    small_bundle: Path, tmp_path: Path
) -> None:
    home = lay_out(tmp_path / "home", None)
    storage, port = tmp_path / "storage", free_port()
    shutil.copytree(small_bundle, storage)
    variables = {
        "AIP_HTTP_PORT": str(port),
        "AIP_HEALTH_ROUTE": "/alive",
        "AIP_PREDICT_ROUTE": "/answer",
        "AIP_STORAGE_URI": storage.as_uri(),
    }
    with started(home, tmp_path / "scratch", port=port, **variables) as url:
        assert json.loads(ask(f"{url}/alive")) == {"status": "healthy"}
        body = json.dumps({"instances": [{"size": 1, "weight": 2, "colour": "red"}], "parameters": {}}).encode()
        (prediction,) = json.loads(ask(f"{url}/answer", body))["predictions"]
        assert prediction["prediction"] == "a"


def test_several_workers_answer_add_up_their_metrics_and_end_together(small_bundle: Path, tmp_path: Path) -> None:
    home, port = lay_out(tmp_path / "home", small_bundle), free_port()
    arguments = ["serve", "--workers", "2", "--port", str(port), "--host", "127.0.0.1"]
    with started(home, tmp_path / "scratch", *arguments, port=port) as url:
        body = json.dumps({"features": [1, 2, "red"]}).encode()
        for _ in range(40):
            ask(f"{url}/predict", body)
        for _ in range(50):
            lines = [line for line in ask(f"{url}/metrics").decode().splitlines() if "model_predictions_total{" in line]
            if sum(float(line.split()[-1]) for line in lines) == 40:
                break
            time.sleep(0.1)
        assert sum(float(line.split()[-1]) for line in lines) == 40


def test_sagemaker_s_folder_is_served_where_it_holds_a_bundle_and_only_for_sagemaker(
    small_bundle: Path, tmp_path: Path
) -> None:
    laid = {"PINWERK_BUNDLE": str(small_bundle)}
    assert surroundings({}, sagemaker=True, laid=small_bundle) == laid
    assert surroundings({}, sagemaker=True, laid=tmp_path) == {}
    assert surroundings({}, sagemaker=False, laid=small_bundle) == {}
    assert surroundings({"PINWERK_BUNDLE": "mine"}, sagemaker=True, laid=small_bundle) == {}


@pytest.mark.parametrize("uri", ["file:///nowhere/at/all", "nosuch://bucket/x"])
def test_storage_that_cannot_be_read_is_named(uri: str) -> None:
    with pytest.raises(ModelError, match=f"AIP_STORAGE_URI: {uri} "):
        fetched(uri)


def test_storage_without_a_bundle_is_named(tmp_path: Path) -> None:
    (tmp_path / "something.txt").write_text("x")
    with pytest.raises(ModelError, match=r"holds no signature\.json"):
        fetched(tmp_path.as_uri())
