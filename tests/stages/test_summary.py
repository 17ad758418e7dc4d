"""The last words of `make run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.errors import PinwerkError
from stages.outbox import Delivered, settle
from stages.summary import summary

PARAMS = {
    "data": {"title": "How long will it last"},
    "model": {"_target_": "sklearn.linear_model.Ridge"},
    "evaluate": {"primary": "neg_root_mean_squared_error"},
}


def reports(folder: Path, *, passed: bool, drifted: int) -> Path:
    figures = {f"test{side}": {"neg_root_mean_squared_error": value} for side, value in SIDES.items()}
    metrics = {**figures, "dummy": {"neg_root_mean_squared_error": -80.0}}
    gate = {"passed": passed, "reasons": ["It is worse than the champion."]}
    columns = [{"name": name, "drifted": name < "abc"[drifted]} for name in "abc"]
    found = {
        "outcome": "drift" if drifted else "stable",
        "reasons": ["a moved", "b moved"][:drifted],
        "columns": columns,
    }
    (folder / "drift").mkdir()
    for name, tree in (("metrics", metrics), ("gate", gate), ("drift/columns", found)):
        (folder / f"{name}.json").write_text(json.dumps(tree), encoding="utf-8")
    (folder / "run.json").write_text('{"record": "abc", "experiment": "pinwerk"}', encoding="utf-8")
    return folder


SIDES = {"": -60.0, "_low": -66.0, "_high": -54.0}


def test_it_says_the_figure_as_people_read_it_and_where_to_look(tmp_path: Path) -> None:
    said = summary(PARAMS, reports(tmp_path, passed=True, drifted=0))
    assert "Ridge: root mean squared error 60.0 (54.0 to 66.0) on test, the dummy 80.0" in said
    assert "gate     passed" in said
    assert "drift    stable, 0 of 3 columns drifted in the current window\n" in said
    assert f"{tmp_path}/report.html" in said


def test_it_says_why_the_gate_is_shut_and_that_the_window_has_drifted(tmp_path: Path) -> None:
    said = summary(PARAMS, reports(tmp_path, passed=False, drifted=2))
    assert "not passed: It is worse than the champion." in said
    assert (
        "drift    drift, 2 of 3 columns drifted in the current window\n           a moved\n           b moved\n" in said
    )


def test_it_says_whether_the_record_has_been_delivered_by_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (folder := tmp_path / "reports").mkdir()
    reports(folder, passed=True, drifted=0)
    assert "record   make ui\n" in summary(PARAMS, folder)  # delivered elsewhere: a clone
    waiting = tmp_path / "data/outbox/abc"
    waiting.mkdir(parents=True)
    assert f"record   waits in {waiting}: make deliver\n" in summary(PARAMS, folder)
    settle(waiting, Delivered("r1", "lasting", 3))
    assert "record   lasting version 3, run r1: make ui\n" in summary(PARAMS, folder)
    (folder / "run.json").write_text('{"record": null, "experiment": null}')
    assert "record   none, tracking is off\n" in summary(PARAMS, folder)


def test_a_pipeline_that_has_not_run_is_told_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(PinwerkError, match="dvc repro"):
        summary(PARAMS, tmp_path)
