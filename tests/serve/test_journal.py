"""Lines are whole or not there, however the writer ends and however full the disk is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.journal import PAGE, Journal, laid_out, mend, written
from tests.conftest import ROOT


def journal(folder: Path, prefix: str = "predictions", size: int = 10**9, keep: int | None = None) -> Journal:
    return Journal(folder, prefix, size, 3600, keep)


def lines(folder: Path) -> list[str]:
    return [line.strip() for path in written(folder, "*") for line in path.read_text().splitlines() if line.strip()]


@given(st.lists(st.integers(1, 2 * PAGE), max_size=60), st.integers(0, 10 * PAGE))
def test_no_line_that_fits_into_a_page_lies_across_two(sizes: list[int], position: int) -> None:
    given = [b"x" * (size - 1) + b"\n" for size in sizes]
    data, ends = laid_out(given, position)
    assert data.replace(b" ", b"") == b"".join(given)
    for line, end in zip(given, ends, strict=True):
        first, last = position + end - len(line), position + end - 1
        assert len(line) > PAGE or first // PAGE == last // PAGE


def test_a_file_that_is_full_is_followed_by_another_and_the_oldest_go_beyond_the_cap(tmp_path: Path) -> None:
    made = journal(tmp_path, size=1000, keep=3000)
    for number in range(200):
        assert made.append([b'{"n": %d}\n' % number]) == 1
    assert made.dropped["cap"] > 0
    assert sum(path.stat().st_size for path in written(tmp_path, "predictions")) <= 3000 + PAGE
    kept = [json.loads(line)["n"] for line in lines(tmp_path)]
    assert kept == list(range(kept[0], 200))


def test_an_old_file_is_closed_and_one_that_was_taken_away_is_made_anew(tmp_path: Path) -> None:
    made = Journal(tmp_path, "predictions", 10**9, 0.05)
    made.append([b"1\n"])
    time.sleep(0.1)
    made.rotate()
    made.append([b"2\n"])
    assert len(written(tmp_path, "predictions")) == 2
    for path in written(tmp_path, "predictions"):
        path.unlink()
    made.append([b"3\n"])
    assert lines(tmp_path) == ["3"]


def test_what_a_killed_writer_left_of_a_long_line_is_cut_off_and_whole_lines_stay(tmp_path: Path) -> None:
    torn, whole = tmp_path / "predictions-1.jsonl", tmp_path / "predictions-2.jsonl"
    torn.write_bytes(b'{"a": 1}\n' + b"x" * 100_000)
    whole.write_bytes(b'{"b": 2}\n')
    mend(tmp_path)
    assert torn.read_bytes() == b'{"a": 1}\n'
    assert whole.read_bytes() == b'{"b": 2}\n'


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from serve.journal import Journal
made = Journal(Path({folder!r}), "predictions", 300_000, 3600)
number = 0
while True:
    lines = [(number + i, sys.argv[1].encode(), b"x" * (i * 37 % 900)) for i in range(50)]
    made.append([b'{{"n": %d, "who": "%s", "fill": "%s"}}\\n' % line for line in lines])
    number += 50
    print(number, flush=True)
"""


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that write on and on, and say how many lines the system has taken."""
    script = WRITER.format(root=str(ROOT), folder=str(tmp_path / "log"))
    started = [
        subprocess.Popen([sys.executable, "-c", script, name], stdout=subprocess.PIPE, text=True) for name in ("a", "b")
    ]
    yield started
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_it_is_read_while_two_processes_write_it_and_is_whole_after_they_are_killed(
    writers: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    query = (
        f"select who, count(*) from read_json('{tmp_path}/log/predictions-*.jsonl', format = 'newline_delimited', "
        "ignore_errors = false, columns = {n: 'BIGINT', who: 'VARCHAR', fill: 'VARCHAR'}) group by 1 order by 1"
    )
    told = {"a": 0, "b": 0}

    def listen(process: subprocess.Popen[str], name: str) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("\n"):
                told[name] = int(line)

    threads = [threading.Thread(target=listen, args=pair) for pair in zip(writers, "ab", strict=True)]
    for thread in threads:
        thread.start()
    while not all(told.values()):
        time.sleep(0.01)
    seen = {"a": 0, "b": 0}
    for _ in range(25):
        found = dict(duckdb.sql(query).fetchall())  # raises for a line that is not whole
        assert all(found.get(name, 0) >= seen[name] for name in seen)
        seen = {**seen, **found}
    for process in writers:
        os.kill(process.pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    found = dict(duckdb.sql(query).fetchall())
    assert all(found[name] >= told[name] for name in told)
    assert len({(json.loads(line)["who"], json.loads(line)["n"]) for line in lines(tmp_path / "log")}) == sum(
        found.values()
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_full_disk_the_oldest_go_first_and_what_cannot_be_written_is_counted(small_disk: Path) -> None:
    made = journal(small_disk / "log", size=50_000)
    line = b'{"fill": "' + b"x" * 980 + b'"}\n'
    assert sum(made.append([line] * 10) for _ in range(100)) == 1000
    assert made.dropped["disk"] > 0
    assert made.problem is None
    made.close()
    for path in written(small_disk / "log", "predictions"):
        path.unlink()
    made, other = journal(small_disk / "log"), small_disk / "somebody else's"
    assert made.append([line]) == 1
    with suppress(OSError), other.open("wb", buffering=0) as file:
        while file.write(b"y" * 4096):
            pass
    taken = sum(made.append([line]) for _ in range(20))
    assert taken < 20
    assert made.problem is not None
    assert all(json.loads(one) for one in lines(small_disk / "log"))
    other.unlink()
    assert made.append([line]) == 1
    assert made.problem is None


def test_feedback_is_never_dropped_to_make_room(small_disk: Path) -> None:
    told = journal(small_disk / "log", "feedback", size=20_000)
    line = b'{"id": "' + b"x" * 200 + b'"}\n'
    assert told.append([line] * 500) == 500
    told.close()
    made = journal(small_disk / "log", size=20_000)
    for _ in range(500):
        made.append([line] * 5)
    assert sum(len(path.read_bytes().split(b"\n")) - 1 for path in written(small_disk / "log", "feedback")) == 500
