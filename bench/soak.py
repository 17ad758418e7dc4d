"""Half the peak for a long time, with swaps, feedback and scrapes: no failed request, flat memory, a whole log.

python -m bench.soak [--seconds 600] [--connections 64] [--swap 5] [--full]     writes bench/soak.md
--full: as many requests as the connections can send, instead of half of that
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import psutil

from bench.measure import machine
from bench.pipeline import environment
from bench.serving import built, free_port

HERE = Path(__file__).resolve().parent.parent
PAGE = HERE / "bench" / "soak.md"
HEADER = re.compile(rb"^(content-length|x-prediction-id|x-model-md5): *(\S+)\r$", re.IGNORECASE | re.MULTILINE)


@dataclass
class Seen:
    """What the clients saw. seconds: of each request; sent and got: when it was sent and answered (time.monotonic)."""

    ids: list[bytes] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    md5s: list[tuple[float, float, bytes]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    feedback: int = 0
    scrapes: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--swap", type=float, default=5, help="seconds between two swaps")
    parser.add_argument("--full", action="store_true")
    args = parser.parse_args()
    started = machine()
    with tempfile.TemporaryDirectory() as scratch:
        home = built(Path(scratch) / "home", "breast_cancer")
        locks = two_models(home)
        params = home / "params.yaml"  # millions of lines are more than the log keeps by itself
        text = params.read_text(encoding="utf-8")
        params.write_text(re.sub(r"keep_megabytes: \d+", "keep_megabytes: 1000000", text), encoding="utf-8")
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "serve.app:app", "--port", str(port), "--no-access-log"]
        with (Path(scratch) / "said").open("w+") as said:
            env = {**os.environ, "PINWERK_LOG_FORMAT": "plain"}
            process = subprocess.Popen(
                [*command, "--log-level", "warning"], cwd=home, env=env, stdout=said, stderr=said
            )
            try:
                seen, swaps, rate = asyncio.run(soak(port, psutil.Process(process.pid), home, locks, args))
            finally:
                process.terminate()
                process.wait(60)
            said.seek(0)
            print(said.read()[-2000:])
        logged = read_log(home)
    text = page(started, args, seen, swaps, rate, logged, [md5 for _, md5 in locks])
    print(text)
    if not args.full:
        PAGE.write_text(text, encoding="utf-8")


def two_models(home: Path) -> list[tuple[str, bytes]]:
    """dvc.lock with the one and with the other model pinned, both in the cache, and the md5 of each."""
    found = []
    for depth in ("10", "4"):
        conf = home / "conf/model/random_forest.yaml"
        text = re.sub(r"max_depth: \d+", f"max_depth: {depth}", conf.read_text(encoding="utf-8"))
        conf.write_text(text, encoding="utf-8")
        tool = str(Path(sys.executable).with_name("dvc"))
        subprocess.run([tool, "repro", "-q", "train"], cwd=home, env=environment(), check=True, capture_output=True)
        lock = (home / "dvc.lock").read_text(encoding="utf-8")
        md5 = re.search(r"path: data/model\s+hash: md5\s+md5: (\S+)", lock)
        assert md5 is not None
        found.append((lock, md5[1].encode()))
    return found


async def soak(
    port: int, process: psutil.Process, home: Path, locks: list[tuple[str, bytes]], args: argparse.Namespace
) -> tuple[Seen, list[tuple[float, bytes]], float]:
    """What was seen, when which model was pinned, and the rate that was asked for."""
    await _up(port)
    inputs = json.loads((home / "data/model/check.json").read_text(encoding="utf-8"))["inputs"]
    body = json.dumps({"features": {name: values[0] for name, values in inputs.items()}}).encode()
    peak = Seen()
    await asyncio.gather(*(_client(port, body, peak, time.monotonic() + 5, 0) for _ in range(args.connections)))
    rate = len(peak.ids) / 5
    seen, swaps = Seen(ids=peak.ids, failures=peak.failures), [(0.0, locks[-1][1])]
    last = time.monotonic() + args.seconds
    pause = 0 if args.full else args.connections / (rate / 2)
    await asyncio.gather(
        *(_client(port, body, seen, last, pause) for _ in range(args.connections)),
        _swap(home, locks, swaps, last, args.swap),
        _scrape(port, process, seen, last),
        _tell(port, seen, last),
    )
    return seen, swaps, rate


async def _up(port: int) -> None:
    for _ in range(600):
        try:
            if (await _ask(port, "GET", "/ready", b""))[0] == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(0.05)
    raise RuntimeError("the service is not ready")


async def _client(port: int, body: bytes, seen: Seen, last: float, pause: float) -> None:
    """One connection, one request after the other, at most one each `pause` seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    due = time.monotonic()
    while (sent := time.monotonic()) < last:
        writer.write(head.encode() + body)
        try:
            async with asyncio.timeout(10):
                said = await reader.readuntil(b"\r\n\r\n")
                headers = {name.lower(): value for name, value in HEADER.findall(said)}
                await reader.readexactly(int(headers[b"content-length"]))
        except (OSError, TimeoutError, asyncio.IncompleteReadError, KeyError) as error:
            seen.failures.append(repr(error))
            return
        got = time.monotonic()
        if not said.startswith(b"HTTP/1.1 200"):
            seen.failures.append(repr(said[:80]))
            continue
        seen.ids.append(headers[b"x-prediction-id"])
        seen.seconds.append(got - sent)
        seen.md5s.append((sent, got, headers[b"x-model-md5"]))
        due = max(due + pause, got - 1)
        if due > got:
            await asyncio.sleep(due - got)
    writer.close()


async def _swap(
    home: Path, locks: list[tuple[str, bytes]], swaps: list[tuple[float, bytes]], last: float, every: float
) -> None:
    number = 0
    while time.monotonic() + every < last:
        await asyncio.sleep(every)
        lock, md5 = locks[number % 2]
        (home / "dvc.lock.draft").write_text(lock, encoding="utf-8")
        (home / "dvc.lock.draft").replace(home / "dvc.lock")
        swaps.append((time.monotonic(), md5))
        number += 1


async def _scrape(port: int, process: psutil.Process, seen: Seen, last: float) -> None:
    while time.monotonic() < last:
        status, _ = await _ask(port, "GET", "/metrics", b"")
        if status != 200:
            seen.failures.append(f"/metrics {status}")
        seen.scrapes += 1
        seen.memory.append((time.monotonic(), process.memory_info().rss / 1e6))
        await asyncio.sleep(5)


async def _tell(port: int, seen: Seen, last: float) -> None:
    while time.monotonic() < last:
        await asyncio.sleep(1)
        labels = [{"id": name.decode(), "label": 1} for name in seen.ids[-50:]]
        status, _ = await _ask(port, "POST", "/feedback", json.dumps(labels).encode())
        if status not in (200, 202):
            seen.failures.append(f"/feedback {status}")
        seen.feedback += len(labels)


async def _ask(port: int, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1]) if answer else 0, answer


def read_log(home: Path) -> tuple[set[str], int]:
    """The ids in the prediction log, and how many lines it has."""
    files = str(home / "data/live/predictions/predictions-*.jsonl")
    query = f"select id from read_json('{files}', format = 'newline_delimited', columns = {{id: 'VARCHAR'}})"
    ids = [row[0] for row in duckdb.execute(query).fetchall()]
    return set(ids), len(ids)


def page(
    started: str,
    args: argparse.Namespace,
    seen: Seen,
    swaps: list[tuple[float, bytes]],
    rate: float,
    logged: tuple[set[str], int],
    md5s: list[bytes],
) -> str:
    """The page of figures."""
    ids, lines = logged
    accepted = {name.decode() for name in seen.ids}
    begin, end = seen.memory[0][0], seen.memory[-1][0]
    early = max(mb for at, mb in seen.memory if at < begin + (end - begin) / 5)
    late = max(mb for at, mb in seen.memory if at > end - (end - begin) / 5)
    late_swaps = [_seconds_until(seen, at, md5) for at, md5 in swaps[1:]]
    seconds = sorted(seen.seconds)
    served = {md5 for _, _, md5 in seen.md5s}
    return f"""# Soak

`python -m bench.soak --seconds {args.seconds:g} --connections {args.connections} --swap {args.swap:g}`, {started}.
The clients run on the same cores; at full speed they got {rate:,.0f} requests/s, the soak ran at
{len(seen.seconds) / args.seconds:,.0f} requests/s.

| | |
|---|---|
| requests answered | {len(seen.ids):,} |
| failed | {len(seen.failures)} {"; ".join(seen.failures[:3])} |
| swaps | {len(swaps) - 1} |
| s from a swap to the new model's first answer: median, most | {statistics.median(late_swaps or [0]):.2f}, \
{max(late_swaps or [0]):.2f} |
| answers by a model that was never pinned | {len(served - set(md5s))} |
| latency, ms: median, p99, most | {1000 * seconds[len(seconds) // 2]:.2f}, \
{1000 * seconds[int(len(seconds) * 0.99)]:.1f}, {1000 * seconds[-1]:.0f} |
| accepted predictions that are not in the log | {len(accepted - ids):,} |
| lines in the log beyond one a prediction | {lines - len(ids):,} |
| labels told, scrapes | {seen.feedback:,}, {seen.scrapes} |
| memory, MB: most in the first and in the last fifth | {early:.0f}, {late:.0f} |
"""


def _seconds_until(seen: Seen, at: float, md5: bytes) -> float:
    """From the move of the pointer to the first answer of the new model."""
    return next((got - at for sent, got, named in seen.md5s if sent >= at and named == md5), float("inf"))


if __name__ == "__main__":
    main()
