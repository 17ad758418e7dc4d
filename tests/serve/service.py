"""A service as real processes, in a folder with two small models that a real DVC has pinned."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT, environment

STAGES = "stages: {train: {cmd: python -c '', outs: [data/model]}}\n"
ROW = {"features": {"size": 1.0, "weight": 0.2, "colour": "red"}}


@dataclass(frozen=True)
class Workspace:
    """A repository with a model in data/model, the same in `models/a`, another in `models/b`; both are in DVC's cache.

    locks: the text of dvc.lock that pins each, a and b its md5 (".dir").
    """

    path: Path
    env: dict[str, str] = field(repr=False)

    def run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.path, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    @property
    def a(self) -> str:
        return self.md5("a")

    @property
    def b(self) -> str:
        return self.md5("b")

    def md5(self, name: str) -> str:
        tree = yaml.safe_load((self.path / f"{name}.lock").read_text())
        return str(tree["stages"]["train"]["outs"][0]["md5"])

    def pin(self, name: str) -> None:
        """Let dvc.lock pin a model, written as DVC does, over the file that is there."""
        (self.path / "dvc.lock").write_text((self.path / f"{name}.lock").read_text())

    def serve(self, **keys: Any) -> None:
        """Change the section of params.yaml."""
        params = self.path / "params.yaml"
        tree = yaml.safe_load(params.read_text())
        tree["serve"]["pins"] |= keys
        params.write_text(yaml.safe_dump(tree))

    def objects(self, name: str, store: Path | str = ".dvc/cache") -> Iterator[Path]:
        """The objects of a model that the other does not have, its listing first."""
        listings = [self.path / store / "files/md5" / md5[:2] / md5[2:] for md5 in (self.md5(name), self.a, self.b)]
        mine, *both = [json.loads(listing.read_bytes()) for listing in listings]
        shared = [entry for entry in both[0] if entry in both[1]]
        yield listings[0]
        for entry in mine:
            if entry not in shared:
                yield self.path / store / "files/md5" / entry["md5"][:2] / entry["md5"][2:]


def make_workspace(folder: Path, write: Callable[[Path, int], object]) -> None:
    """Make one in `repo`. write: puts a model into a folder, another for each seed."""
    space = Workspace(folder / "repo", environment(folder))
    space.path.mkdir()
    shutil.copyfile(ROOT / "params.yaml", space.path / "params.yaml")
    (space.path / "dvc.yaml").write_text(STAGES)
    space.run("git", "init", "--quiet", "--initial-branch", "main")
    space.run("dvc", "init", "--quiet")
    for seed, name in enumerate("ba"):
        write(space.path / "data/model", seed)
        space.run("dvc", "commit", "--force", "--quiet")
        shutil.copyfile(space.path / "dvc.lock", space.path / f"{name}.lock")
        shutil.copytree(space.path / "data/model", space.path / "models" / name)
    (space.path / ".gitignore").write_text("/data\n/models\n/*.lock\n!/dvc.lock\n")


@dataclass(frozen=True)
class Service:
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def ask(
        self, path: str, body: Any = None, method: str | None = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers of an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read()), {**answer.headers}
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read()), {**error.headers}

    def served(self) -> str:
        """The md5 that an answer names."""
        status, answer, headers = self.ask("/predict", ROW)
        assert status == 200, answer
        return headers["x-model-md5"]

    def problems(self) -> dict[str, str]:
        found: dict[str, str] = self.ask("/ready")[1]["problems"]
        return found

    def until(self, holds: Callable[[], Any], what: str) -> None:
        """Wait for something that must come."""
        for _ in range(200):
            assert self.process.poll() is None, self.log.read_text()
            if holds():
                return
            time.sleep(0.05)
        raise AssertionError(f"{what} did not come; {self.log.read_text()}")

    def until_served(self, md5: str) -> None:
        self.until(lambda: self.served() == md5, md5)

    def until_told(self, name: str, text: str) -> str:
        """Wait for a problem that says this; the whole of it."""
        self.until(lambda: text in self.problems().get(name, ""), f"{name}: {text}")
        return self.problems()[name]


@contextmanager
def serving(space: Workspace, workers: int = 1, **env: str) -> Iterator[Service]:
    """uvicorn, from when it answers until it has ended by itself at SIGTERM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "error", "-m", "uvicorn", "serve.app:app", "--port", str(port)]
    command += ["--no-access-log", "--log-level", "warning", *(["--workers", str(workers)] if workers > 1 else [])]
    log = space.path / "service.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=space.path,
            env={**space.env, "PYTHONPATH": str(ROOT), **env},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    service = Service(f"http://127.0.0.1:{port}", process, log)
    try:
        service.until(lambda: _answers(service), "an answer")
        yield service
    finally:
        process.terminate()
        code = process.wait(timeout=30)
    assert code in (0, -15), log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


def _answers(service: Service) -> bool:
    try:
        return service.ask("/health")[0] == 200
    except OSError:
        return False


@contextmanager
def web(handler: Callable[..., Any]) -> Iterator[str]:
    """The address of an HTTP server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def copied(space: Workspace, folder: Path) -> Workspace:
    """A copy to do anything with."""
    subprocess.run(["cp", "-a", str(space.path), str(folder / "space")], check=True)
    return Workspace(folder / "space", {**space.env, "HOME": os.environ.get("HOME", "/")})
