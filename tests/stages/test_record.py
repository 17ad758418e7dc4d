"""The record of an execution: what it says, and that it is never the reason why a pipeline fails."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.record import LONGEST, flat, locked, numbers, sayable, shortened
from tests.conftest import Opened, Repository

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers())
TREES = st.recursive(
    LEAVES, lambda inner: st.dictionaries(st.text("abc", min_size=1), inner, max_size=4), max_leaves=12
)


@given(st.dictionaries(st.text("abc", min_size=1), TREES))
def test_every_leaf_has_one_key_that_leads_to_it(tree: dict[str, Any]) -> None:
    for key, value in flat(tree):
        node: Any = tree
        for part in key.split(".") if key else ():
            node = node[part]
        assert node is value or node == value
    keys = [key for key, _ in flat(tree)]
    assert len(keys) == len(set(keys))


@given(TREES)
def test_numbers_are_finite_and_miss_none(tree: Any) -> None:
    found = dict(numbers(tree))
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.values())
    wanted = {k for k, v in flat(tree) if isinstance(v, (bool, int)) or (isinstance(v, float) and math.isfinite(v))}
    assert set(found) == wanted


def test_an_integer_beyond_the_floats_is_no_metric() -> None:
    assert dict(numbers({"a": 10**400, "b": True, "c": None, "d": "1", "e": float("nan")})) == {"b": 1.0}


@given(st.text())
def test_a_key_is_one_that_mlflow_takes(key: str) -> None:
    said = sayable(key)
    assert 1 <= len(said) <= 250
    assert "/" not in said  # a path would have to be in its shortest form
    assert said not in (".", "..")
    assert not said.startswith(".")
    assert all(letter.isalnum() or letter in "_-. " for letter in said)


def test_a_plain_key_stays_as_it_is() -> None:
    assert sayable("data.split.test") == "data.split.test"


@given(st.text(max_size=20) | TREES)
def test_a_value_is_text_no_longer_than_mlflow_keeps(value: Any) -> None:
    text = shortened(value)
    assert text == value if isinstance(value, str) else json.loads(text) is not ...
    assert len(shortened("x" * (LONGEST + 1))) <= LONGEST


def test_a_long_value_says_how_long_it_was() -> None:
    assert shortened("x" * 10_000).endswith("… (10000 characters)")
    assert shortened("x" * LONGEST) == "x" * LONGEST


@pytest.mark.parametrize("text", [None, "", "[]", "stages: 3", "{", "schema: '2.0'"])
def test_without_a_lock_of_dvc_no_md5_is_made_up(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("dvc.lock").write_text(text)
    assert locked("prepare") == {}


@pytest.fixture
def repo(reproduced: Path, opened: Opened) -> Repository:
    return opened(reproduced)


def test_with_tracking_off_nothing_is_kept_and_mlflow_is_not_imported(repo: Repository) -> None:
    repo.track(mode="off")
    code = "import sys, stages.record as r; r.main(); assert not {'mlflow', 'sqlalchemy'} & set(sys.modules)"
    assert "off" in repo.run("python", "-c", code)
    assert repo.json("data/reports/run.json") == {"record": None, "experiment": None}
    assert repo.waiting() == []


def test_a_server_that_is_down_is_said_once_and_the_record_waits(repo: Repository) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        repo.track(mode="server", uri=f"http://127.0.0.1:{port}")
        ann = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "s3cret"}
        said = repo.run("python", "-m", "stages.record", env=ann).strip()
        assert "\n" not in said
        assert f"the tracking server http://127.0.0.1:{port} cannot be reached (Connection refused)" in said
        assert "`make deliver` delivers it later" in said
        assert "s3cret" not in said
        (folder,) = repo.waiting()
        assert str(folder) in said
        assert repo.json("data/reports/run.json") == {"record": folder.name, "experiment": "pinwerk"}
        repo.run("python", "-m", "stages.record", env={**ann, "DVC_EXP_NAME": "again"})  # as after a kill
        assert repo.waiting() == [folder]
        assert "s3cret" not in (folder / "record.json").read_text()
        again = repo.run("python", "-m", "stages.tracking", "deliver", fails=True).strip()
    assert again.startswith("error: the tracking server")
    assert "s3cret" not in again
    assert repo.waiting() == [folder]


def test_a_disk_that_is_full_fails_the_stage_since_the_run_would_go_unrecorded(repo: Repository) -> None:
    outbox = repo.path / "data/outbox"
    outbox.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(outbox)], check=False).returncode:
        pytest.skip("only root may mount")
    try:
        said = repo.run("python", "-m", "stages.record", fails=True).strip()
    finally:
        subprocess.run(["umount", str(outbox)], check=True)
    assert said.startswith(f"error: {outbox}/")
    assert "No space left on device" in said
    assert "\n" not in said
    assert "make room" in said


def test_the_record_of_an_experiment_in_a_temporary_folder_lands_in_the_real_repository(
    repo: Repository, tmp_path: Path
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        repo.track(mode="server", uri=f"http://127.0.0.1:{held.getsockname()[1]}")
        temporary = tmp_path / "temporary"
        shutil.copytree(repo.path, temporary, symlinks=True)
        there = Repository(temporary, {**repo.env, "DVC_ROOT": str(repo.path), "DVC_EXP_NAME": "brave-cat"})
        there.run("python", "-m", "stages.record")
    assert there.waiting() == []
    (folder,) = repo.waiting()
    record = json.loads((folder / "record.json").read_text())
    assert record["name"] == record["tags"]["dvc.experiment"] == "brave-cat"
