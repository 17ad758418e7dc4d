"""The last words of `make run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.errors import PinwerkError
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
    for name, tree in (("metrics", metrics), ("gate", gate), ("drift", {"drifted": drifted})):
        (folder / f"{name}.json").write_text(json.dumps(tree), encoding="utf-8")
    return folder


SIDES = {"": -60.0, "_low": -66.0, "_high": -54.0}


def test_it_says_the_figure_as_people_read_it_and_where_to_look(tmp_path: Path) -> None:
    said = summary(PARAMS, reports(tmp_path, passed=True, drifted=0))
    assert "Ridge: root mean squared error 60.0 (54.0 to 66.0) on test, the dummy 80.0" in said
    assert "gate     passed" in said
    assert "none that matters" in said
    assert f"{tmp_path}/report.html" in said


def test_it_says_why_the_gate_is_shut_and_that_the_window_has_drifted(tmp_path: Path) -> None:
    said = summary(PARAMS, reports(tmp_path, passed=False, drifted=1))
    assert "not passed: It is worse than the champion." in said
    assert "has drifted" in said


def test_a_pipeline_that_has_not_run_is_told_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(PinwerkError, match="dvc repro"):
        summary(PARAMS, tmp_path)
