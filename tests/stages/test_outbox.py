"""Records on the local disk: whole or not there, kept until they are delivered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stages.address import root
from stages.bundle import bundle_md5
from stages.errors import ModelError, TrackingError
from stages.outbox import Delivered, Record, content_id, outbox, put, queued, settle, take, went

RUN = Delivered("r" * 32, "m", 3)


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "repo"
    (folder / "data/model").mkdir(parents=True)
    (folder / "data/model/model.onnx").write_bytes(b"x" * 200_000)
    (folder / "plots").mkdir()
    (folder / "plots/roc.json").write_text("[]")
    (folder / "report.html").write_text("<p>")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return folder


def record(name: str = "a" * 32, at: int = 1) -> Record:
    return Record(
        id=name,
        time=at,
        name=None,
        experiment="e",
        model="m",
        model_md5=bundle_md5(Path("data/model")),
        params={"seed": "42"},
        metrics={"roc_auc": 0.5},
        tags={},
        datasets={},
    )


def kept(name: str = "a" * 32, at: int = 1) -> Path:
    return put(record(name, at), [Path("plots"), Path("report.html")], Path("data/model"))


def test_a_record_is_taken_as_it_was_put() -> None:
    folder = kept()
    assert take(folder) == record()
    assert (folder / "files/plots/roc.json").read_text() == "[]"
    assert (folder / "files/report.html").read_text() == "<p>"
    assert bundle_md5(folder / "bundle") == bundle_md5(Path("data/model"))


def test_the_oldest_record_comes_first_and_a_delivered_one_not_at_all() -> None:
    late, early = kept("a" * 32, 2), kept("b" * 32, 1)
    assert queued() == [early, late]
    settle(early, RUN)
    assert queued() == [late]
    assert not early.exists()
    assert went(early.name) == RUN
    assert went(late.name) is None


def test_a_record_that_waits_already_is_left_alone_and_a_damaged_one_replaced() -> None:
    folder = kept(at=1)
    assert kept(at=2) == folder
    assert take(folder).time == 1
    (folder / "bundle/model.onnx").write_bytes(b"other")
    kept(at=3)
    assert take(folder).time == 3


def test_the_id_of_a_record_follows_from_what_it_says_and_not_from_when_and_where() -> None:
    files = [Path("plots"), Path("report.html")]
    first = replace(record(), tags={"data": "flights", "git.commit": "1", "dvc.experiment": "a"})
    there = replace(first, id="", time=9, name="brave-cat", tags={"data": "flights", "git.commit": "2"})
    assert content_id(there, files) == content_id(first, files)
    others = [
        replace(first, params={"seed": "43"}),
        replace(first, metrics={"roc_auc": 0.6}),
        replace(first, model_md5="f" * 32),
        replace(first, experiment="other"),
        replace(first, tags={"data": "wine"}),
        replace(first, datasets={"train": "f" * 32}),
    ]
    ids = {content_id(other, files) for other in [first, *others]}
    Path("plots/roc.json").write_text("[1]")
    ids.add(content_id(first, files))
    assert len(ids) == len(others) + 2


def test_an_experiment_in_a_temporary_folder_puts_its_record_into_the_real_repository(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(repository.parent / "real"))
    assert root() == repository.parent / "real"
    assert kept().parent == repository.parent / "real/data/outbox"


@pytest.mark.parametrize("damage", ["{", "[]", '{"id": "a"}', '"text"', ""])
def test_a_damaged_record_is_named_and_still_counts_as_waiting(damage: str) -> None:
    folder = kept()
    (folder / "record.json").write_text(damage)
    assert queued() == [folder]
    with pytest.raises(TrackingError, match=r"a{32}: the record is damaged .* remove the folder"):
        take(folder)


def test_a_bundle_that_changed_in_the_outbox_is_damage() -> None:
    folder = kept()
    (folder / "bundle/model.onnx").write_bytes(b"other")
    with pytest.raises(TrackingError, match=r"its bundle has the md5 .*expected"):
        take(folder)


def test_a_record_without_its_bundle_is_damage() -> None:
    folder = kept()
    shutil.rmtree(folder / "bundle")
    with pytest.raises(TrackingError, match="damaged"):
        take(folder)


def test_a_missing_bundle_is_told_as_such_and_leaves_nothing() -> None:
    (Path("data/model/model.onnx")).unlink()
    Path("data/model").rmdir()
    with pytest.raises(ModelError, match=r"data/model: there is no such folder"):
        kept()
    assert not outbox().exists()


def test_what_a_killed_process_left_is_cleared_but_not_what_another_is_writing() -> None:
    outbox().mkdir(parents=True)
    old, young = outbox() / f".{'c' * 32}-abcdefgh", outbox() / f".{'d' * 32}-abcdefgh"
    for draft in (old, young):
        draft.mkdir()
    long_ago = time.time() - 2 * 3600
    os.utime(old, (long_ago, long_ago))
    kept()
    assert not old.exists()
    assert young.exists()


@pytest.fixture
def mounted(repository: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """data/outbox as a file system of its own, with the options of the test's parameter."""
    outbox().mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(outbox())], check=False)
    if done.returncode:
        pytest.skip("only root may mount")
    yield outbox()
    subprocess.run(["umount", str(outbox())], check=True)


@pytest.mark.parametrize(
    ("mounted", "reason"), [("size=100k", "No space left"), ("ro", "Read-only file system")], indirect=["mounted"]
)
def test_a_record_that_cannot_be_kept_is_one_clear_error(mounted: Path, reason: str) -> None:
    with pytest.raises(TrackingError) as error:
        kept()
    said = str(error.value)
    assert said.startswith(f"{mounted}/")
    assert reason in said
    assert "unrecorded" in said
    assert "\n" not in said
    assert list(mounted.iterdir()) == []


def test_a_record_carries_its_own_model_and_experiment() -> None:
    folder = put(replace(record(), model="other", experiment="trials"), [], Path("data/model"))
    tree = json.loads((folder / "record.json").read_text())
    assert (tree["model"], tree["experiment"]) == ("other", "trials")
