"""A service as a real process in a folder of its own, for the tests of what people and programs see of it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stages.bundle import bundle_md5
from tests.conftest import ROOT, environment


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Service:
    """A running service. url ends without a slash; its process is `pid`."""

    url: str
    home: Path
    pid: int

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def ask(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """GET, or POST where there is a body."""
        request = urllib.request.Request(self.url + path, data=body, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, _lower(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _lower(error.headers), error.read())


def lay_out(home: Path, bundle: Path | None) -> Path:
    """What a repository has that serves a bundle; without one, one that has trained nothing."""
    (home / "data").mkdir(parents=True)
    shutil.copyfile(ROOT / "params.yaml", home / "params.yaml")
    if bundle is not None:
        shutil.copytree(bundle, home / "data/model")
        pin(home, bundle_md5(bundle))
    return home


def pin(home: Path, md5: str) -> None:
    """Let dvc.lock pin a model."""
    text = f"stages: {{train: {{outs: [{{path: data/model, md5: {md5}}}]}}}}\n"
    (home / "dvc.lock.draft").write_text(text, encoding="utf-8")
    (home / "dvc.lock.draft").replace(home / "dvc.lock")


@contextmanager
def running(home: Path, scratch: Path, **variables: str) -> Iterator[Service]:
    """`uvicorn serve.app:app` in a folder, with variables of ours; it ends well or the test fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**environment(scratch), "PYTHONPATH": str(ROOT), **variables}
    command = ["python", "-W", "error", "-m", "uvicorn", "serve.app:app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=home, env=env)
    service = Service(f"http://127.0.0.1:{port}", home, process.pid)
    try:
        for _ in range(300):
            assert process.poll() is None, "the service ended"
            try:
                service.ask("/health")
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield service
    finally:
        process.terminate()
        assert process.wait(timeout=60) in (0, -15)


def _lower(headers: object) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}  # type: ignore[attr-defined]
