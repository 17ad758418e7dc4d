"""kill -9 in the middle of each stage: the next `dvc repro` is clean, and no half is taken for a whole."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from stages.bundle import checked_rows, open_bundle
from tests.conftest import ROOT, Opened, Repository

pytestmark = pytest.mark.slow

STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PATIENCE = 120  # seconds until the stage must have got where it is to be killed

# An edit of conf after which each stage has something else to do.
EDITS = {
    "configure": ("conf/drift/default.yaml", "alpha", "0.03"),
    "ingest": ("conf/data/breast_cancer.yaml", "snapshot", "2"),
    "prepare": ("conf/data/breast_cancer.yaml", "quarantine", "0.02"),
    "train": ("conf/model/random_forest.yaml", "max_depth", "3"),
    "evaluate": ("conf/evaluate/default.yaml", "resamples", "11"),
    "drift": ("conf/drift/default.yaml", "alpha", "0.02"),
    "record": ("conf/tracking/embedded.yaml", "experiment", "killed"),
}
DRAFTS = {"ingest": ".raw-*", "prepare": ".prepared-*", "train": ".model-*"}


@pytest.fixture
def repo(reproduced: Path, opened: Opened) -> Repository:
    return opened(reproduced)


def test_every_stage_is_killed_here() -> None:
    assert set(EDITS) == set(STAGES)


def kill_in(repo: Repository, stage: str, draft: str | None = None) -> None:
    """`dvc repro STAGE`, and SIGKILL for it and all below it once the stage is there (or, with draft, is writing)."""
    started = repo.start("dvc", "repro", stage)
    deadline = time.monotonic() + PATIENCE
    try:
        while not (any((repo.path / "data").glob(draft)) if draft else runs(started.pid, stage)):
            assert started.poll() is None, f"dvc repro ended before {stage} could be killed"
            assert time.monotonic() < deadline, f"{stage} did not get there in {PATIENCE} s"
            time.sleep(0.002)
    finally:
        family = [psutil.Process(started.pid)] if started.poll() is None else []
        family += [child for parent in family for child in parent.children(recursive=True)]
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        for process in family:
            with suppress(psutil.Error):
                process.kill()
        started.wait()
        psutil.wait_procs(family, timeout=10)
    assert started.returncode == -signal.SIGKILL


def runs(pid: int, stage: str) -> bool:
    with suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                if child.cmdline()[-1:] == [f"stages.{stage}"]:
                    return True
    return False


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def answers_as_it_was_written(bundle: Path) -> None:
    model = open_bundle(bundle)
    rows, scores = checked_rows(bundle, model.signature)
    np.testing.assert_allclose(model.scores_of(rows), scores, atol=1e-6)


def is_clean(repo: Repository, stage: str) -> None:
    """The rerun ends well, nothing is left over, and what lies in data/ is what dvc.lock pins."""
    said = repo.run("dvc", "repro", stage)
    assert f"Running stage '{stage}'" in said
    assert "up to date" in repo.run("dvc", "status", stage)  # data/ is what dvc.lock says
    left = [path for path in (repo.path / "data").glob(".*") if path.name != ".spill" or any(path.iterdir())]
    assert left == []
    answers_as_it_was_written(repo.path / "data/model")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_as_it_starts_is_run_again(repo: Repository, stage: str) -> None:
    before, lock = contents(repo.path / "data/model"), repo.locked(stage)
    repo.set(*EDITS[stage])
    kill_in(repo, stage)
    if stage not in {"evaluate", "drift", "record"}:
        assert contents(repo.path / "data/model") == before
    assert repo.locked(stage) == lock
    is_clean(repo, stage)


@pytest.mark.parametrize("stage", DRAFTS)
def test_a_stage_killed_while_it_writes_leaves_no_half_and_the_earlier_model(repo: Repository, stage: str) -> None:
    before = contents(repo.path / "data/model")
    repo.set(*EDITS[stage])
    kill_in(repo, stage, draft=DRAFTS[stage])
    assert contents(repo.path / "data/model") == before
    assert list((repo.path / "data").glob(DRAFTS[stage])), "killed too late to leave a draft"
    is_clean(repo, stage)
