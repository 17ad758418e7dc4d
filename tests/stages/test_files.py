"""A folder or file is the old one or the new one, whole, whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.errors import ModelError, PinwerkError
from stages.files import read_json, replacing, report_text, write_atomically, write_json

ROOT = Path(__file__).parents[2]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A folder that an earlier run wrote."""
    path = tmp_path / "data" / "model"
    with replacing(path) as folder:
        (folder / "a").write_text("old")
    return path


def names(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


def test_the_new_folder_takes_the_place_of_the_old_one(target: Path) -> None:
    with replacing(target) as folder:
        (folder / "b").write_text("new")
        assert names(target) == ["a"]
    assert names(target) == ["b"]
    assert names(target.parent) == ["model"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [RuntimeError("x"), PinwerkError("x"), KeyboardInterrupt()])
def test_an_error_inside_keeps_the_old_folder(target: Path, error: BaseException) -> None:
    def fail() -> None:
        with replacing(target) as folder:
            (folder / "b").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (target / "a").read_text() == "old"
    assert names(target.parent) == ["model"]


def test_an_error_of_the_system_is_told_and_keeps_the_old_folder(target: Path) -> None:
    with pytest.raises(PinwerkError, match=r"model: could not be written \(No such file.*what was there is kept"):  # noqa: SIM117
        with replacing(target) as folder:
            (folder / "no" / "b").write_text("half")
    assert names(target) == ["a"]


def test_an_error_of_what_the_block_reads_is_not_said_to_be_of_what_it_writes(target: Path, tmp_path: Path) -> None:
    with pytest.raises(PinwerkError, match=r"input.csv: No such file or directory; .*model is kept as it was$"):  # noqa: SIM117
        with replacing(target) as folder:
            (folder / "b").write_text((tmp_path / "input.csv").read_text())
    assert names(target) == ["a"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(PinwerkError, match=r"model: could not be written \((Not a directory|File exists)\)"):  # noqa: SIM117
        with replacing(tmp_path / "data" / "model"):
            pass


KILLED = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from stages.files import replacing
rename = Path.rename
def renamed(self, to):
    rename(self, to)
    if {between!r}:
        os.kill(os.getpid(), signal.SIGKILL)
Path.rename = renamed
with replacing(Path({target!r})) as folder:
    (folder / "b").write_text("half")
    if not {between!r}:
        print("inside", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("between", [False, True])
def test_a_kill_keeps_the_old_folder_and_the_next_run_clears_up(target: Path, between: bool) -> None:
    script = KILLED.format(root=str(ROOT), between=between, target=str(target))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if not between:
            assert process.stdout.readline() == "inside\n"
            with replacing(target.parent / "other"):
                pass
            assert len(names(target.parent)) == 3  # the draft of one that lives is left alone
            process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    assert target.exists() != between
    with pytest.raises(RuntimeError), replacing(target):  # an attempt that fails puts it back as well
        raise RuntimeError
    assert (target / "a").read_text() == "old"
    assert [n for n in names(target.parent) if n.startswith(".")] == []


def test_the_draft_of_a_running_process_is_left_alone(target: Path) -> None:
    with replacing(target) as first:
        with replacing(target) as second:
            (second / "b").write_text("second")
        assert first.exists()
        (first / "c").write_text("first")
    assert names(target) == ["c"]
    assert names(target.parent) == ["model"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_what_was_there(small_disk: Path) -> None:
    path = small_disk / "model"
    with replacing(path) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(PinwerkError, match=r"model: could not be written \(No space left on device\); what was there"):  # noqa: SIM117
        with replacing(path) as folder:
            (folder / "b").write_bytes(os.urandom(2 << 20))
    assert names(path) == ["a"]
    assert names(small_disk) == ["model"]
    write_atomically(small_disk / "t.txt", "old")
    with pytest.raises(PinwerkError, match=r"t.txt: could not be written \(No space left on device\)"):
        write_atomically(small_disk / "t.txt", "x" * (2 << 20))
    assert (small_disk / "t.txt").read_text() == "old"
    assert names(small_disk) == ["model", "t.txt"]


def test_a_file_that_says_the_same_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "a" / "t.txt"
    assert write_atomically(path, "é")
    os.utime(path, (0, 0))
    assert not write_atomically(path, "é")
    assert path.stat().st_mtime == 0
    assert write_atomically(path, "e")
    assert names(path.parent) == ["t.txt"]


def test_json_comes_back_as_it_was_and_bad_json_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    write_json(path, {"b": [1.5, None], "a": "é"})
    first = path.read_bytes()
    assert read_json(path) == {"b": [1.5, None], "a": "é"}
    write_json(path, read_json(path))
    assert path.read_bytes() == first
    for content, said in ((first[:-5], "damaged"), (b"\xff", "damaged"), (b"[1]", "expected an object")):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=f"t.json: {said}.*`dvc checkout` restores it"):
            read_json(path)
    assert json.loads(report_text({"a": (1 / 3, float("inf")), "b": [float("nan"), 2]})) == {
        "a": [0.3333333333, None],
        "b": [None, 2],
    }
    with pytest.raises(ModelError, match=r"no.json: there is no such file"):
        read_json(tmp_path / "no.json")
