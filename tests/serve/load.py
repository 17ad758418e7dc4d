"""Load on a service while its model is swapped: `python -m tests.serve.load URL --seconds 60 --connections 64`.

Each connection sends one request after the other, kept alive, and notes each answer. By itself it swaps nothing: who
runs it does, and asks `Load` which md5 each answer named and when.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

ROW = {"features": {"size": 1.0, "weight": 0.2, "colour": "red"}}
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
MD5 = re.compile(rb"x-model-md5: *(\S+)", re.IGNORECASE)


@dataclass
class Load:
    """What came back. answers: when a request was sent, when it was answered (time.monotonic), and the md5 it names."""

    answers: list[tuple[float, float, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def md5s(self) -> Counter[str]:
        return Counter(md5 for _, _, md5 in self.answers)


async def load(url: str, connections: int, seconds: float, row: object = ROW, path: str = "/predict") -> Load:
    """Send for some seconds on so many connections. A request that is not answered 200 in 10 s is a failure."""
    done, last = Load(), time.monotonic() + seconds
    body = json.dumps(row).encode()
    parts = urlsplit(url)
    head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    places = [_connection(str(parts.hostname), parts.port or 80, request, last, done) for _ in range(connections)]
    await asyncio.gather(*places)
    return done


async def _connection(host: str, port: int, request: bytes, last: float, done: Load) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        while time.monotonic() < last:
            sent = time.monotonic()
            writer.write(request)
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                length = LENGTH.search(head)
                answer = await reader.readexactly(int(length[1]) if length else 0)
            md5 = MD5.search(head)
            if not head.startswith(b"HTTP/1.1 200 ") or md5 is None:
                done.failures.append(f"{head.splitlines()[0]!r} {answer[:200]!r}")
            else:
                done.answers.append((sent, time.monotonic(), md5[1].decode()))
    except (OSError, EOFError, asyncio.IncompleteReadError) as error:
        done.failures.append(repr(error))
    finally:
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.serve.load")
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--row", type=json.loads, default=ROW, help="the body to send, as JSON")
    given = parser.parse_args()
    done = asyncio.run(load(given.url, given.connections, given.seconds, given.row))
    print(f"{len(done.answers):,} answers, {len(done.answers) / given.seconds:,.0f}/s, {len(done.failures)} failures")
    for md5, count in done.md5s.items():
        print(f"  {md5}: {count:,}")
    for failure, count in Counter(done.failures).most_common(5):
        print(f"  {count} x {failure}")
    raise SystemExit(bool(done.failures))


if __name__ == "__main__":
    main()
