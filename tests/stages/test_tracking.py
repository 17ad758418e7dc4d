"""Delivery to MLflow: embedded and to a real server, whatever the server does; the same record is one run."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import socketserver
import sqlite3
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stages.closure import closure
from stages.outbox import queued
from stages.record import flat, shortened
from tests.conftest import ROOT, Repository, environment

pytestmark = pytest.mark.slow

DEADLINE = 8.0
Make = Callable[[], Repository]


@pytest.fixture(scope="module")
def copies(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    def copy() -> Repository:
        folder = tmp_path_factory.mktemp("tracking")
        subprocess.run(["cp", "-a", str(reproduced), str(folder / "repo")], check=True)
        return Repository(folder / "repo", environment(folder))

    return copy


@pytest.fixture
def repo(copies: Make) -> Iterator[Repository]:
    made = copies()
    yield made
    assert [process.cmdline() for process in made.processes()] == []
    shutil.rmtree(made.path)


def kept(repo: Repository, number: int = 1) -> list[Path]:
    """Records of the execution in the outbox, none of them delivered."""
    tracking = repo.params()["tracking"]
    with refusing() as uri:
        repo.track(mode="server", uri=uri)
        for each in range(number):
            repo.track(deadline=DEADLINE + each)  # another execution
            repo.run("python", "-m", "stages.record")
    repo.track(**tracking)
    return repo.waiting()


@contextmanager
def refusing() -> Iterator[str]:
    """The address of a port that nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


# embedded


@pytest.fixture(scope="module")
def embedded(copies: Make) -> Repository:
    """Two executions at once that made the same model, recorded after the store of the fixture was removed.

    The second takes place in another folder, as DVC's parallel experiments do.
    """
    repo, aside = copies(), copies()
    aside.track(deadline=61)
    for path in ("mlflow.db", "mlartifacts", "data/outbox"):
        target = repo.path / path
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    both = [
        subprocess.Popen(
            ["python", "-m", "stages.record"], cwd=cwd, env={**repo.env, **root}, stdout=subprocess.PIPE, text=True
        )
        for cwd, root in ((repo.path, {}), (aside.path, {"DVC_ROOT": str(repo.path)}))
    ]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("version 1" in line for line in said), said
    return repo


def rows(repo: Repository, query: str, *values: str) -> list[Any]:
    with closing(sqlite3.connect(repo.path / "mlflow.db")) as store:
        return store.execute(query, values).fetchall()


def test_two_processes_that_deliver_at_once_on_first_use_make_two_runs_and_one_version(embedded: Repository) -> None:
    assert rows(embedded, "select status from runs") == [("FINISHED",), ("FINISHED",)]
    assert rows(embedded, "select version from model_versions") == [(1,)]
    assert rows(embedded, "select status from logged_models") == [(2,)]  # READY
    assert embedded.waiting() == []


def test_a_run_has_the_parameters_metrics_tags_files_and_data_of_its_execution(embedded: Repository) -> None:
    run = embedded.run_id()
    params = dict(rows(embedded, "select key, value from params where run_uuid = ?", run))
    assert params == {key: shortened(value) for key, value in flat(embedded.params()) if key.split(".")[0] != "serve"}
    metrics = dict(rows(embedded, "select key, value from latest_metrics where run_uuid = ?", run))
    measured = {k: v for k, v in flat(embedded.json("data/reports/metrics.json")) if isinstance(v, float)}
    assert measured
    assert measured.items() <= metrics.items()
    assert any(key.startswith("drift.") for key in metrics)
    tags = dict(rows(embedded, "select key, value from tags where run_uuid = ?", run))
    model = embedded.locked("train")["outs"][0]["md5"]
    assert tags["md5.data/model"] == model
    assert tags["md5.data/raw"] == embedded.locked("ingest")["outs"][0]["md5"]
    assert tags["pinwerk.delivered"] == "true"
    assert tags["model.version"] == "1"
    assert tags["git.dirty"] == "false"
    assert tags["git.commit"] == embedded.run("git", "rev-parse", "HEAD").strip()
    digests = {digest for (digest,) in rows(embedded, "select digest from datasets")}
    prepared = {out["path"]: out["md5"] for out in embedded.locked("prepare")["outs"]}["data/prepared"]
    assert digests == {prepared.removesuffix(".dir")}
    files = embedded.path / "mlartifacts" / run / "artifacts"
    assert {"report.html", "metrics.json", "gate.json", "params.yaml", "evaluate", "drift", "card.md"} <= {
        path.name for path in files.iterdir()
    }


def test_the_same_execution_recorded_again_is_the_same_run(embedded: Repository) -> None:
    run, told = embedded.run_id(), embedded.read("data/reports/run.json")
    said = embedded.run("python", "-m", "stages.record", env={"DVC_EXP_NAME": "again"})
    assert f"run {run}, breast_cancer version 1" in said
    assert rows(embedded, "select count(*) from runs") == [(2,)]
    assert embedded.read("data/reports/run.json") == told
    measured = rows(embedded, "select count(*) from metrics where run_uuid = ?", run)
    assert measured == rows(embedded, "select count(*) from latest_metrics where run_uuid = ?", run)


def test_a_version_says_which_bytes_and_which_commit_it_is(embedded: Repository) -> None:
    tags = dict(rows(embedded, "select key, value from model_version_tags"))
    assert tags["md5"] == embedded.locked("train")["outs"][0]["md5"]
    assert tags["git.commit"] == embedded.run("git", "rev-parse", "HEAD").strip()


def test_a_model_has_the_metrics_of_its_run(embedded: Repository) -> None:
    ((run,),) = rows(embedded, "select run_id from model_versions")
    measured = rows(embedded, "select key, value from latest_metrics where run_uuid = ?", run)
    assert measured
    assert sorted(rows(embedded, "select metric_name, metric_value from logged_model_metrics")) == sorted(measured)


def test_a_version_holds_the_code_that_opens_it_and_no_more(embedded: Repository) -> None:
    ((place,),) = rows(embedded, "select storage_location from model_versions")
    code = Path(place.removeprefix("file://")) / "code"
    held = {path.relative_to(code).as_posix() for path in code.rglob("*.py")}
    assert held == {*closure("stages.pyfunc", ROOT), "stages/__init__.py"}
    assert "stages/config.py" not in held


def test_a_version_has_an_example_of_what_it_takes(embedded: Repository) -> None:
    ((place,),) = rows(embedded, "select storage_location from model_versions")
    example = json.loads((Path(place.removeprefix("file://")) / "input_example.json").read_text())
    signature = embedded.json("data/model/signature.json")
    assert example["columns"] == [column["name"] for column in signature["columns"]]
    checked = embedded.json("data/model/check.json")["inputs"]
    assert example["data"] == [list(row) for row in zip(*checked.values(), strict=True)][:3]


def test_a_copied_repository_writes_into_its_own_store(embedded: Repository, tmp_path: Path) -> None:
    subprocess.run(["cp", "-a", str(embedded.path), str(tmp_path / "copy")], check=True)
    copy = Repository(tmp_path / "copy", embedded.env)
    copy.track(deadline=62)
    copy.run("python", "-m", "stages.record")
    run = copy.run_id()
    assert (copy.path / "mlartifacts" / run).is_dir()
    assert not (embedded.path / "mlartifacts" / run).exists()
    places = rows(copy, "select artifact_uri from runs union select storage_location from model_versions")
    assert all(place.startswith((copy.path / "mlartifacts").as_uri()) for (place,) in places)


def test_a_store_that_another_holds_costs_a_pipeline_no_more_than_the_deadline(repo: Repository) -> None:
    repo.track(deadline=2)
    with (repo.path / "data/outbox/.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        said = repo.run("timeout", "60", "python", "-m", "stages.record")
    assert "the embedded store did not take the record within 2 s. `make deliver` delivers it later" in said
    assert len(repo.waiting()) == 1


def test_the_ui_answers_until_it_is_interrupted(embedded: Repository) -> None:
    with refusing() as uri:
        port = uri.rpartition(":")[2]
    log = embedded.path.parent / "ui.txt"
    with log.open("w") as out:
        ui = subprocess.Popen(
            ["python", "-m", "stages.tracking", "ui", "--port", port],
            cwd=embedded.path,
            env=embedded.env,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        assert _ok(f"{uri}/health", ui)
        run = embedded.run_id()
        with urllib.request.urlopen(f"{uri}/get-artifact?run_id={run}&path=gate.json", timeout=20) as reply:
            assert json.load(reply) == embedded.json("data/reports/gate.json")
        os.killpg(ui.pid, signal.SIGINT)
        ui.wait(30)
    finally:
        _end(ui)
    assert f"http://127.0.0.1:{port} (Ctrl-C ends it)" in log.read_text()
    assert embedded.processes() == []
    assert not (embedded.path / "mlruns").exists()


def test_the_ui_without_a_store_says_how_to_make_one(repo: Repository) -> None:
    (repo.path / "mlflow.db").unlink()
    said = repo.run("python", "-m", "stages.tracking", "ui", fails=True)
    assert said.strip() == f"error: {repo.path}/mlflow.db: there is no record yet; `make run` makes the first"


# a server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with refusing() as uri:
        port = uri.rpartition(":")[2]
    store = [f"--backend-store-uri=sqlite:///{folder}/server.db", f"--artifacts-destination={folder}/artifacts"]
    command = ["python", "-m", "mlflow", "server", "--workers=1", "--host=127.0.0.1", f"--port={port}", *store]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--serve-artifacts"],
            cwd=folder,
            env={**environment(folder), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        assert _ok(f"{uri}/health", process)
        yield uri
    finally:
        _end(process)


def _ok(url: str, process: subprocess.Popen[Any]) -> bool:
    for _ in range(300):
        assert process.poll() is None
        try:
            with urllib.request.urlopen(url, timeout=20) as reply:
                return bool(reply.status == 200)
        except OSError:
            time.sleep(0.2)
    return False


def _end(process: subprocess.Popen[Any]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def asked(server: str, path: str, **body: Any) -> dict[str, Any]:
    """What the server's REST interface answers."""
    request = urllib.request.Request(
        f"{server}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as reply:
        answer: dict[str, Any] = json.load(reply)
        return answer


def experiment_of(server: str, name: str) -> str:
    found = asked(server, "experiments/search", max_results=100)["experiments"]
    return next(str(one["experiment_id"]) for one in found if one["name"] == name)


def runs_in(server: str, name: str) -> list[dict[str, Any]]:
    found = asked(server, "runs/search", experiment_ids=[experiment_of(server, name)])
    return list(found.get("runs", []))


def versions_of(server: str, name: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{server}/api/2.0/mlflow/model-versions/search?filter=name%3D'{name}'") as reply:
        return list(json.load(reply).get("model_versions", []))


ANN = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "s3cret"}


def pointed(repo: Repository, uri: str, name: str) -> None:
    repo.track(mode="server", uri=uri, experiment=name, model=name, timeout=1, deadline=DEADLINE)


def one_run_and_one_version(server: str, name: str, record: str) -> None:
    (run,) = runs_in(server, name)
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert tags["pinwerk.record"] == record
    assert run["info"]["status"] == "FINISHED"
    (version,) = versions_of(server, name)
    assert version["status"] == "READY"
    assert version["run_id"] == run["info"]["run_id"]
    search = {"experiment_ids": [experiment_of(server, name)]}
    (model,) = asked(server, "logged-models/search", **search)["models"]
    assert model["info"]["status"] == "LOGGED_MODEL_READY"


def test_a_server_gets_the_run_the_model_and_never_shows_the_password(server: str, repo: Repository) -> None:
    pointed(repo, server, "plain")
    repo.track(deadline=60)
    said = repo.run("python", "-m", "stages.record", env={"PINWERK_DEBUG": "1", **ANN})
    assert "plain version 1" in said
    assert "s3cret" not in said
    run = repo.run_id()
    code = f"""
import mlflow
mlflow.set_tracking_uri("{server}")
from pathlib import Path
from stages.bundle import bundle_md5
folder = mlflow.artifacts.download_artifacts("models:/plain/1", dst_path="loaded")
print("", bundle_md5(Path(folder) / "data/bundle"))
print(mlflow.artifacts.load_text("runs:/{run}/gate.json") == Path("data/reports/gate.json").read_text())
"""
    read = repo.run("python", "-W", "ignore", "-c", code, env={"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "0"})
    assert read.split()[-2:] == [repo.locked("train")["outs"][0]["md5"], "True"]


@dataclass
class Proxy:
    """Passes bytes on to the server until a request holds `last`; from then on every connection is dropped."""

    server: str
    last: bytes
    times: int = 1
    answered: bool = False  # the request is passed on, its answer is not
    seen: int = 0
    slow: float = 0  # seconds that this request takes; nothing dies then
    dead: threading.Event = field(default_factory=threading.Event)


class _Passing(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        proxy: Proxy = self.server.proxy  # type: ignore[attr-defined]
        if proxy.dead.is_set():
            return
        host, port = proxy.server.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as other:
            back = threading.Thread(target=_pour, args=(other, self.request, proxy), daemon=True)
            back.start()
            while chunk := self.request.recv(65536):
                proxy.seen += chunk.count(proxy.last)
                if proxy.slow:
                    time.sleep(proxy.slow if proxy.last in chunk else 0)
                elif proxy.seen >= proxy.times:
                    proxy.dead.set()
                    if proxy.answered:
                        other.sendall(chunk)
                        time.sleep(0.5)
                if proxy.dead.is_set():
                    break
                other.sendall(chunk)
            for end in (self.request, other):
                _shut(end)
            back.join(5)


def _pour(source: socket.socket, target: socket.socket, proxy: Proxy) -> None:
    try:
        while chunk := source.recv(65536):
            if proxy.dead.is_set():
                break
            target.sendall(chunk)
    except OSError:
        pass
    _shut(target)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


class _Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is what these tests are about."""


@contextmanager
def listening(handler: type[socketserver.BaseRequestHandler], proxy: Proxy | None = None) -> Iterator[str]:
    with _Threads(("127.0.0.1", 0), handler) as there:
        there.proxy = proxy  # type: ignore[attr-defined]
        thread = threading.Thread(target=there.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{there.server_address[1]}"
        finally:
            there.shutdown()
            thread.join()


class _Silent(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while self.request.recv(65536):
            pass


class _FallingSilent(socketserver.BaseRequestHandler):
    """Healthy, but all else it leaves unanswered."""

    def handle(self) -> None:
        while chunk := self.request.recv(65536):
            if b"/health" in chunk:
                self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


class _Trickling(socketserver.BaseRequestHandler):
    """One byte of an endless header now and then: no time-out between bytes ever passes."""

    def handle(self) -> None:
        self.request.recv(65536)
        self.request.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            self.request.sendall(b"x")
            time.sleep(0.3)


class _Answering(socketserver.BaseRequestHandler):
    status, body = b"500 Internal Server Error", b"<html>\n<h1>it broke</h1>\n</html>"

    def handle(self) -> None:
        while self.request.recv(65536):
            self.request.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (self.status, len(self.body)))
            self.request.sendall(self.body)


class _Unauthorized(_Answering):
    status, body = b"401 Unauthorized", b"You are not authenticated"


class _Nonsense(_Answering):
    status, body = b"200 OK", b"<html>welcome to the proxy"


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (_Silent, r"http://127\.0\.0\.1:[0-9]+ did not answer within 1 s\. "),
        (_FallingSilent, "Read timed out"),
        (_Trickling, f"did not take the record within {DEADLINE:g} s"),
        (_Answering, "too many 500 error responses"),
        (_Unauthorized, "401"),
        (_Nonsense, "not in a valid JSON format"),
    ],
)
def test_a_server_that_does_not_do_its_work_costs_one_line(
    handler: type[socketserver.BaseRequestHandler], reason: str, repo: Repository, tmp_path: Path
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    with listening(handler) as uri:
        pointed(repo, uri, "faulty")
        env = {"TMPDIR": str(scratch), **ANN}
        said = repo.run("timeout", f"{DEADLINE + 8}", "python", "-m", "stages.record", env=env)
    line = said.strip()
    assert "\n" not in line, said
    assert re.search(reason, line), line
    assert "`make deliver` delivers it later" in line
    assert "s3cret" not in line
    (folder,) = repo.waiting()
    assert repo.json("data/reports/run.json") == {"record": folder.name, "experiment": "faulty"}
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "last", "times", "answered"),
    [
        ("run_unanswered", b"runs/create", 1, True),
        ("amid_files", b"PUT /api/2.0/mlflow-artifacts", 7, False),
        ("amid_the_model", b"PUT /api/2.0/mlflow-artifacts", 30, False),
        ("version_unanswered", b"model-versions/create", 1, True),
        ("before_the_end", b"POST /api/2.0/mlflow/runs/set-tag", 1, False),
    ],
)
def test_a_server_that_dies_midway_gets_the_rest_later_as_the_same_run(
    name: str, last: bytes, times: int, answered: bool, server: str, repo: Repository
) -> None:
    proxy = Proxy(server, last, times, answered)
    with listening(_Passing, proxy) as uri:
        pointed(repo, uri, name)
        repo.track(deadline=60)
        said = repo.run("python", "-m", "stages.record").strip()
    assert proxy.dead.is_set(), said
    assert "\n" not in said, said
    assert "`make deliver` delivers it later" in said
    (folder,) = repo.waiting()
    repo.track(uri=server)
    repo.run("python", "-m", "stages.tracking", "deliver")
    assert repo.waiting() == []
    one_run_and_one_version(server, name, folder.name)


def test_a_server_that_is_slow_for_a_pipeline_is_not_for_a_person_who_delivers(server: str, repo: Repository) -> None:
    with listening(_Passing, Proxy(server, b"pipeline.skops HTTP", slow=2)) as uri:
        pointed(repo, uri, "slow")
        repo.track(deadline=60)
        assert "Read timed out" in repo.run("python", "-m", "stages.record")
        (folder,) = repo.waiting()
        repo.run("python", "-m", "stages.tracking", "deliver")
    assert repo.waiting() == []
    one_run_and_one_version(server, "slow", folder.name)


def test_a_later_delivery_leaves_what_dvc_pins_alone(server: str, repo: Repository) -> None:
    down = Proxy(server, b"nothing that is ever sent")
    down.dead.set()
    with listening(_Passing, down) as uri:
        repo.set("conf/config.yaml", "tracking", "server")
        repo.edit("conf/tracking/server.yaml", "http://127.0.0.1:5000", uri)
        assert "`make deliver` delivers it later" in repo.run("dvc", "repro")
        (folder,) = repo.waiting()
        told = repo.json("data/reports/run.json")
        assert told == {"record": folder.name, "experiment": "pinwerk"}
        down.dead.clear()
        repo.run("python", "-m", "stages.tracking", "deliver")
    assert repo.waiting() == []
    assert repo.json("data/reports/run.json") == told
    assert "up to date" in repo.run("dvc", "status")
    (run,) = runs_in(server, "pinwerk")
    assert run["info"]["run_id"] == repo.run_id()


def test_two_deliveries_at_once_make_one_run(server: str, repo: Repository) -> None:
    pointed(repo, server, "twice")
    (folder,) = kept(repo)
    both = [
        subprocess.Popen(["python", "-m", "stages.tracking", "deliver"], cwd=repo.path, env=repo.env) for _ in range(2)
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    one_run_and_one_version(server, "twice", folder.name)
    assert repo.waiting() == []
    assert "nothing waits" in repo.run("python", "-m", "stages.tracking", "deliver")


def test_a_damaged_record_does_not_hold_up_the_others_which_go_where_they_belong(
    server: str, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointed(repo, server, "damaged")
    kept(repo, 3)
    monkeypatch.chdir(repo.path)
    first, second, _ = queued()
    (first / "record.json").write_text("{")
    (second / "bundle/signature.json").write_text("{}")
    pointed(repo, server, "moved_on")  # the config is another by now, the records are not
    said = repo.run("python", "-m", "stages.tracking", "deliver", fails=True)
    assert said.count("the record is damaged") == 2
    assert "damaged version 1" in said
    assert "error: 2 of 3 records were not delivered" in said
    assert "Traceback" not in said
    assert set(repo.waiting()) == {first, second}
    assert len(runs_in(server, "damaged")) == 1
