"""How fast the pinned model answers: peers, ours and the limits on loopback, interleaved, in one run.

python -m bench.serving [--rounds 3] [--seconds 3] [--only NAME …]     writes bench/serving.md; needs Debian's wrk
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.measure import machine
from bench.pipeline import clone, environment

HERE = Path(__file__).resolve().parent.parent
PAGE = HERE / "bench" / "serving.md"
PEERS = HERE / ".bench"
CONNECTIONS = (1, 16, 64)
BATCHED = ("Pinwerk", "Pinwerk, flights")
BATCHES = """
## 1,000 rows by name in one request

| | ms (least to most) | decoding and bare inference, ms | ratio |
|---|---|---|---|
"""
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Server:
    """A process that answers `body` at `path` on its port."""

    name: str
    command: Sequence[str]
    path: str
    body: bytes
    folder: Path
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """rate in requests/s; p99 in ms; cpu in ms of the server's process tree a request; failed: non-2xx and errors."""

    rate: float
    p50: float
    p99: float
    cpu: float
    failed: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("error: wrk is not installed; Debian: apt-get install wrk")
    started = machine()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as running:
        servers = [s for s in all_servers(Path(scratch)) if not args.only or s.name in args.only]
        up: list[tuple[Server, int, psutil.Process, float]] = []
        for server in servers:
            up.append((server, *running.enter_context(serving(server))))
            print(f"{server.name}: ready in {up[-1][3]:.1f} s", flush=True)
        figures: dict[tuple[str, int], list[Figure]] = {}
        for number in range(args.rounds):
            for connections in CONNECTIONS:
                for server, port, process, _ in up if number % 2 else reversed(up):
                    figure = measured(server, port, process, connections, args.seconds)
                    figures.setdefault((server.name, connections), []).append(figure)
            print(f"round {number + 1} of {args.rounds} done", flush=True)
        batches = [batched(server, port) for server, port, _, _ in up if server.name in BATCHED]
        memory = {server.name: _memory(process) for server, _, process, _ in up}
        ready = {server.name: seconds for server, _, _, seconds in up}
    text = page(started, args, figures, memory, ready) + (BATCHES + "".join(batches) if batches else "")
    if args.only:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
        print(f"→ {PAGE.relative_to(HERE)}")


def all_servers(scratch: Path) -> list[Server]:
    """Everything that is compared, each with its model and a body with the same row."""
    home, flights = (built(scratch / name, name) for name in ("breast_cancer", "flights"))
    peers = peer_environment()
    row = _first_row(home)
    model = _joblib(scratch / "model.joblib", peers)
    numbers = json.dumps({"features": list(row.values())}).encode()
    names = json.dumps({"features": _first_row(flights)}).encode()
    graph = {"BENCH_ONNX": str(home / "data/model/model.onnx")}
    ours = [_tool("uvicorn"), "serve.app:app", "--no-access-log", "--log-level", "warning", "--port", "PORT"]
    limits = [_tool("uvicorn"), "--no-access-log", "--log-level", "warning", "--port", "PORT"]
    naive = [str(peers / "bin/uvicorn"), "bench.peers.naive:app", "--log-level", "warning", "--port", "PORT"]
    lit = [str(peers / "bin/python"), "-m", "bench.peers.lit"]
    bento = [str(peers / "bin/bentoml"), "serve", "bench.peers.bento:Forest", "--port", "PORT"]
    arrays = json.dumps({"features": [list(row.values())]}).encode()
    return [
        Server("limit: bare ASGI", [*limits, "bench.peers.limits:bare"], "/predict", numbers, HERE),
        Server("limit: FastAPI route", [*limits, "bench.peers.limits:app"], "/predict", numbers, HERE),
        Server("Pinwerk", ours, "/predict", numbers, home),
        Server("Pinwerk, log off", ours, "/predict", numbers, home, {"PINWERK_PARAMS": str(_without_log(home))}),
        Server("Pinwerk, flights", ours, "/predict", names, flights),
        Server("naive FastAPI", naive, "/predict", numbers, HERE, {"BENCH_MODEL": str(model)}),
        *_mlflow(scratch, home, row),
        _mlserver(scratch / "mlserver", peers, model, list(row.values())),
        Server("LitServe", lit, "/predict", numbers, HERE, {"BENCH_MODEL": str(model)}),
        Server("LitServe, ONNX", lit, "/predict", numbers, HERE, graph),
        Server("BentoML", bento, "/predict", arrays, HERE, {"BENCH_MODEL": str(model)}),
        Server("BentoML, ONNX, batching", bento, "/predict", arrays, HERE, {**graph, "BENCH_BATCH": "1"}),
    ]


def built(home: Path, data: str) -> Path:
    """A repository with a trained, pinned and recorded model."""
    clone(home)
    conf = home / "conf/config.yaml"
    conf.write_text(re.sub(r"data: \w+", f"data: {data}", conf.read_text(encoding="utf-8")), encoding="utf-8")
    subprocess.run([_tool("dvc"), "repro", "-q"], cwd=home, env=environment(), check=True, capture_output=True)
    return home


def peer_environment() -> Path:
    """The peers' own environment, made by their lock."""
    uv = str(HERE / ".uv/bin/uv")
    if not PEERS.is_dir():
        subprocess.run([uv, "venv", "--quiet", str(PEERS)], check=True)
    lock = str(HERE / "requirements/peers.lock")
    command = [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(PEERS / "bin/python"), lock]
    subprocess.run(command, check=True)
    return PEERS


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _first_row(home: Path) -> dict[str, Any]:
    inputs = json.loads((home / "data/model/check.json").read_text(encoding="utf-8"))["inputs"]
    return {name: values[0] for name, values in inputs.items()}


def _without_log(home: Path) -> Path:
    path = home / "data/.without-log.yaml"
    text = (home / "params.yaml").read_text(encoding="utf-8")
    path.write_text(text.replace("    enabled: true\n", "    enabled: false\n"), encoding="utf-8")
    return path


def _joblib(path: Path, peers: Path) -> Path:
    """The forest of the pipeline on the bare 30 floats, written by the peers' own scikit-learn."""
    script = (
        "import sys, joblib; from sklearn.datasets import load_breast_cancer as data;"
        "from sklearn.ensemble import RandomForestClassifier as Forest;"
        "joblib.dump(Forest(100, max_depth=10, random_state=42).fit(*data(return_X_y=True)), sys.argv[1])"
    )
    subprocess.run([str(peers / "bin/python"), "-c", script, str(path)], check=True)
    return path


def _mlflow(scratch: Path, home: Path, row: dict[str, Any]) -> list[Server]:
    import mlflow
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(100, max_depth=10, random_state=42).fit(*load_breast_cancer(return_X_y=True))
    saved = scratch / "mlflow"
    mlflow.sklearn.save_model(forest, saved, pip_requirements=[], serialization_format="cloudpickle")
    serve = [_tool("mlflow"), "models", "serve", "--env-manager", "local", "--workers", "1", "--port", "PORT", "-m"]
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}"}
    split = {"columns": list(row), "data": [list(row.values())]}
    return [
        Server(
            "mlflow models serve",
            [*serve, str(saved)],
            "/invocations",
            json.dumps({"inputs": [list(row.values())]}).encode(),
            scratch,
        ),
        Server(
            "mlflow models serve, our bundle (ONNX)",
            [*serve, "models:/breast_cancer/1"],
            "/invocations",
            json.dumps({"dataframe_split": split}).encode(),
            scratch,
            env,
        ),
    ]


def _mlserver(folder: Path, peers: Path, model: Path, row: list[float]) -> Server:
    folder.mkdir()
    (folder / "model-settings.json").write_text(
        json.dumps(
            {"name": "forest", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": str(model)}}
        )
    )
    settings = {"http_port": "PORT", "grpc_port": free_port(), "metrics_port": free_port(), "parallel_workers": 0}
    (folder / "settings.json").write_text(json.dumps({**settings, "debug": False}))
    tensor = {"name": "x", "shape": [1, len(row)], "datatype": "FP64", "data": row}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": "predict"}]}).encode()
    return Server("MLServer", [str(peers / "bin/mlserver"), "start", "."], "/v2/models/forest/infer", body, folder)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def serving(server: Server) -> Iterator[tuple[int, psutil.Process, float]]:
    """The server up: its port, its process, and the seconds from its start to its first right answer."""
    port = free_port()
    settings = server.folder / "settings.json"
    if settings.is_file():
        settings.write_text(settings.read_text().replace('"PORT"', str(port)))
    path = f"{Path(server.command[0]).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(HERE), "BENCH_PORT": str(port), **server.env}
    if server.folder != HERE:
        env.pop("PYTHONPATH")
    command = [str(port) if word == "PORT" else word for word in server.command]
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=server.folder, env=env, stdout=said, stderr=said, start_new_session=True
        )
        try:
            while not _answers(server, port):
                if process.poll() is not None or time.perf_counter() - started > 90:
                    said.seek(0)
                    raise RuntimeError(f"{server.name} does not answer:\n{said.read().decode()[-2000:]}")
                time.sleep(0.02)
            yield port, psutil.Process(process.pid), time.perf_counter() - started
        finally:
            tree = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            for child in tree:
                if child.is_running():
                    child.kill()


def _answers(server: Server, port: int) -> bool:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{server.path}", server.body, JSON)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def measured(server: Server, port: int, process: psutil.Process, connections: int, seconds: int) -> Figure:
    """One run of wrk."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        literal = server.body.decode().replace("]]", "] ]")  # the end of a long string to Lua, the same JSON
        script.write(
            f'wrk.method = "POST"\nwrk.body = [==[{literal}]==]\nwrk.headers["content-type"] = "application/json"\n'
        )
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", script.name]
        before = _cpu(process)
        out = subprocess.run(
            [*command, f"http://127.0.0.1:{port}{server.path}"], capture_output=True, text=True, check=True
        ).stdout
        used = _cpu(process) - before
    requests = int(re.search(r"(\d+) requests in", out)[1])  # type: ignore[index]
    failed = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
    failed += sum(int(n) for line in re.findall(r"Socket errors: (.*)", out) for n in re.findall(r"\d+", line))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])  # type: ignore[index]
    return Figure(rate, _latency(out, "50%"), _latency(out, "99%"), 1000 * used / max(requests, 1), failed)


def _latency(out: str, which: str) -> float:
    """In ms."""
    found = re.search(rf"{which}\s+([\d.]+)(us|ms|s)", out)
    assert found is not None
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def _tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _cpu(process: psutil.Process) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in _tree(process))


def batched(server: Server, port: int) -> str:
    """A row of the page: 1,000 rows in one request against msgspec, numpy and the graph in this process, in turns."""
    import msgspec
    import numpy as np

    from stages.bundle import Rows as Matrices
    from stages.bundle import open_bundle, run_graph

    model = open_bundle(server.folder / "data/model")
    row = _first_row(server.folder)
    body = json.dumps([row] * 1000).encode()

    def bare() -> None:
        records = msgspec.json.decode(body)
        numeric = np.array([[record[name] for name in model.signature.numeric] for record in records], dtype="float64")
        text = np.array([[record[name] for name in model.signature.text] for record in records], dtype="object")
        run_graph(model.graph, Matrices(numeric, text.reshape(len(records), -1)))

    def asked() -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", body, JSON)
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()

    taken: dict[Any, list[float]] = {asked: [], bare: []}
    for number in range(60):
        for work, seconds in taken.items():
            started = time.perf_counter()
            work()
            if number >= 10:  # warm
                seconds.append(1000 * (time.perf_counter() - started))
    there, here = (statistics.median(taken[work]) for work in (asked, bare))
    ratio = statistics.median(a / b for a, b in zip(taken[asked], taken[bare], strict=True))
    spread = f"{there:.1f} ({min(taken[asked]):.1f} to {max(taken[asked]):.1f})"
    return f"| {server.name} | {spread} | {here:.1f} | {ratio:.2f} |\n"


def _memory(process: psutil.Process) -> float:
    """MB of the largest process of the tree: the worker."""
    return float(max(one.memory_info().rss for one in _tree(process)) / 1e6)


def page(
    started: str,
    args: argparse.Namespace,
    figures: dict[tuple[str, int], list[Figure]],
    memory: dict[str, float],
    ready: dict[str, float],
) -> str:
    """The page of figures: medians, and ratios round by round at 16 connections."""
    rows = "\n".join(_row(name, connections, figures) for name, connections in figures if connections == 16)
    single = "\n".join(_row(name, connections, figures) for name, connections in figures if connections == 1)
    many = "\n".join(_row(name, connections, figures) for name, connections in figures if connections == 64)
    started_up = "\n".join(f"| {name} | {ready[name]:.1f} | {memory[name]:.0f} |" for name in memory)
    head = (
        "| | requests/s (least to most) | p50, ms | p99, ms | CPU a request, ms | failed |\n|---|---|---|---|---|---|"
    )
    return f"""# How fast the pinned model answers

`python -m bench.serving --rounds {args.rounds} --seconds {args.seconds}`, {started}. wrk on loopback, on the same
cores; one worker each; medians of {args.rounds} interleaved rounds. A random forest (100 trees, depth 10) on
breast_cancer's 30 floats; "flights" is the default model, 17 numbers and 3 texts sent by name. Ours writes its
prediction log and metrics.

## 16 connections

{head}
{rows}

{_ratios(figures)}

## 1 connection

{head}
{single}

## 64 connections

{head}
{many}

## From start to first answer, and memory

| | s | MB of the largest process after the run |
|---|---|---|
{started_up}
"""


def _row(name: str, connections: int, figures: dict[tuple[str, int], list[Figure]]) -> str:
    taken = figures[name, connections]
    rates = [one.rate for one in taken]
    rate = f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
    p50, p99, cpu = (statistics.median(values) for values in zip(*((f.p50, f.p99, f.cpu) for f in taken), strict=True))
    return f"| {name} | {rate} | {p50:.2f} | {p99:.2f} | {cpu:.3f} | {sum(one.failed for one in taken)} |"


def _ratios(figures: dict[tuple[str, int], list[Figure]]) -> str:
    """Ours against each of the others, round by round."""
    ours = figures.get(("Pinwerk", 16))
    if ours is None:
        return ""
    lines = ["| ratio, 16 connections | requests/s | CPU a request |", "|---|---|---|"]
    for name, connections in figures:
        if connections == 16 and name != "Pinwerk":
            other = figures[name, 16]
            rate = statistics.median(a.rate / b.rate for a, b in zip(ours, other, strict=True))
            cpu = statistics.median(a.cpu / b.cpu for a, b in zip(ours, other, strict=True))
            lines.append(f"| Pinwerk / {name} | {rate:.2f} | {cpu:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
