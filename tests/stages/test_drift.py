from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from stages import config as typed
from stages.bundle import Model, open_bundle, signature_tree
from stages.dataset import read_split
from stages.drift import choose_windows, main, run
from stages.errors import DataError, PinwerkError
from stages.files import write_json
from stages.fitted import dump_pipeline
from stages.train import describe, fit

CONF = Path(__file__).parents[2] / "conf"
SPLITS = ("train", "validation", "test", "current")


def configured(task: str = "binary", time: bool = True, **drift: object) -> typed.Config:
    name = {"binary": "breast_cancer", "multiclass": "wine", "regression": "diabetes"}[task]
    model = "model=ridge" if task == "regression" else "model=logistic_regression"
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose("config", [f"data={name}", model, "features=onehot"])
    OmegaConf.set_struct(composed, False)
    composed.data.columns = {  # before the features are resolved, which name them
        "target": "y",
        "time": "asked_at" if time else None,
        "key": [],
        "passthrough": [],
        "numeric": {"distance": {"unit": "miles"}, "temp": {}, "empty": {}},
        "categorical": {"carrier": {}},
    }
    tree = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(tree, dict)
    tree["drift"] |= {"sample": 1000, "evidently_rows": 0, **drift}
    return typed.validate({str(key): value for key, value in tree.items()})


def rows(n: int, seed: int, task: str = "binary") -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    distance = np.round(generator.lognormal(6.5, 0.6, n))
    temp = generator.normal(55, 15, n)
    signal = (temp - 55) / 15 + generator.normal(size=n)
    target: dict[str, object] = {
        "binary": signal > 0,
        "multiclass": np.array(["low", "middle", "top"])[np.digitize(signal, [-0.7, 0.7])],
        "regression": signal * 10 + 100,
    }
    day = np.datetime64("2013-01-01T00:00:00.000000") + np.arange(n) % 40 * np.timedelta64(1, "D")
    return pd.DataFrame(
        {
            "y": target[task],
            "asked_at": day,
            "distance": distance,
            "temp": temp,
            "empty": np.full(n, np.nan),
            "carrier": generator.choice(["AA", "UA", "B6"], n, p=[0.5, 0.3, 0.2]),
        }
    )


def prepared(folder: Path, task: str = "binary", current: int = 1200) -> Path:
    folder.mkdir(exist_ok=True)
    for seed, (name, n) in enumerate(zip(SPLITS, (1500, 500, 900, current), strict=True)):
        rows(n, seed, task).to_parquet(folder / f"{name}.parquet")
    return folder


def changed(folder: Path, name: str = "current", **columns: Any) -> None:
    file = folder / f"{name}.parquet"
    pd.read_parquet(file).assign(**columns).to_parquet(file)


def fitted(folder: Path, config: typed.Config, bundle: Path) -> Model:
    """A bundle of a pipeline that was fitted on train, as the stage before writes it."""
    bundle.mkdir()
    train, validation = (read_split(config.data.columns, config.data.task, n, folder) for n in ("train", "validation"))
    train.X["empty"] = 0.0  # the encoders want a value to learn from
    pipeline = fit(config, train)
    dump_pipeline(pipeline, bundle / "pipeline.skops")
    write_json(bundle / "signature.json", signature_tree(describe(config, pipeline, train, validation)))
    write_json(bundle / "provenance.json", {})
    return open_bundle(bundle)


def read(path: Path) -> dict[str, object]:
    tree = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(tree, dict)
    return tree


def test_equal_windows_do_not_drift_and_every_figure_is_written(tmp_path: Path) -> None:
    config, data = configured(), prepared(tmp_path / "data")
    verdict = run(config, data, fitted(data, config, tmp_path / "model"), tmp_path / "reports")
    assert not verdict.drifted
    found = read(tmp_path / "reports/drift.json")
    assert (found["rows_reference"], found["rows_current"], found["columns_drifted"]) == (2900, 1200, 0)
    assert {"classifier_auc", "score_distance", "calibration_gap", "primary_current", "primary_change"} <= set(found)
    assert all(isinstance(value, (int, float)) for value in found.values())


def test_each_change_of_a_column_is_named(tmp_path: Path) -> None:
    config, data = configured(), prepared(tmp_path / "data")
    current = pd.read_parquet(data / "current.parquet")
    tenth = np.arange(len(current)) % 10 == 0
    changed(
        data,
        distance=current["distance"] * 1.609344,
        temp=current["temp"].mask(tenth),
        carrier=current["carrier"].mask(tenth, "ZZ"),
    )
    verdict = run(config, data, None, tmp_path / "reports")
    assert verdict.drifted
    columns = read(tmp_path / "reports/drift/columns.json")["columns"]
    assert isinstance(columns, list)
    reasons = {column["name"]: column["reason"] for column in columns}
    assert "miles → kilometres" in reasons["distance"]
    assert "missing values 0.0% → 10.0%" in reasons["temp"]
    assert "new categories: 'ZZ' (10.0%)" in reasons["carrier"]
    assert "all values are missing in both windows" in reasons["empty"]
    assert verdict.outcome == "broken inputs"
    assert verdict.broken == ("distance", "temp", "carrier")
    assert "temp is broken: missing values 0.0% → 10.0%" in verdict.reasons
    assert "distance, temp, carrier" in verdict.reasons[3]


def test_one_broken_column_is_the_outcome_in_words_figures_and_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, data = configured(), prepared(tmp_path / "data")
    current = pd.read_parquet(data / "current.parquet")
    changed(data, carrier=current["carrier"].mask(np.arange(len(current)) % 10 == 0, "ZZ"))
    monkeypatch.setattr("stages.drift.load_config", lambda _: config)
    monkeypatch.setattr("stages.drift.open_bundle", lambda _: None)
    monkeypatch.setattr("stages.drift.PREPARED", data)
    monkeypatch.setattr("stages.drift.REPORTS", tmp_path / "reports")
    main()
    assert capsys.readouterr().out.startswith("drift: broken inputs: carrier is broken: new categories: 'ZZ' (10.0%)")
    figures = read(tmp_path / "reports/drift.json")
    assert (figures["drifted"], figures["columns_broken"]) == (0, 1)
    assert read(tmp_path / "reports/drift/columns.json")["outcome"] == "broken inputs"
    assert "Inputs are broken" in (tmp_path / "reports/drift/drift.html").read_text(encoding="utf-8")


def test_a_full_disk_keeps_the_report_that_was_there(tmp_path: Path) -> None:
    """As a limit on the size of files, which asks for no right to mount."""
    config, data = configured(time=False), prepared(tmp_path / "data")
    run(config, data, None, tmp_path / "reports")
    before = {file: file.read_bytes() for file in (tmp_path / "reports").rglob("*.*")}
    changed(data, temp=0.0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(map(len, before.values()))
    few = {"sample": 10}  # the sample is written as well, and must not be what fails
    small = config.model_copy(update={"drift": config.drift.model_copy(update=few)})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, limits[1]))
        with pytest.raises(PinwerkError, match=r"reports/drift: could not be written \(File too large\)"):
            run(small, data, None, tmp_path / "reports")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {file: file.read_bytes() for file in (tmp_path / "reports").rglob("*.*")} == before


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_labels_that_no_longer_follow_the_features_are_drift_for_every_task(tmp_path: Path, task: str) -> None:
    config, data = configured(task, time=False), prepared(tmp_path / "data", task)
    labels = pd.read_parquet(data / "current.parquet")["y"]
    model = fitted(data, config, tmp_path / "model")
    assert not run(config, data, model, tmp_path / "before").drifted
    changed(data, y=np.random.default_rng(1).permutation(labels))
    verdict = run(config, data, model, tmp_path / "reports")
    assert verdict.drifted
    assert config.evaluate.primary in verdict.reasons[0]
    assert read(tmp_path / "reports/drift.json")["columns_drifted"] == 0


def test_the_model_is_never_judged_on_rows_it_was_fitted_on(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data")
    assert choose_windows(data).held_out == "test"
    for name in ("test", "validation"):
        pd.read_parquet(data / f"{name}.parquet")[:0].to_parquet(data / f"{name}.parquet")
    assert choose_windows(data).held_out is None


def test_scores_are_compared_on_all_rows_and_performance_on_those_whose_label_is_known(tmp_path: Path) -> None:
    config, data = configured(), prepared(tmp_path / "data")
    model = fitted(data, config, tmp_path / "model")
    current = pd.read_parquet(data / "current.parquet")
    early = np.arange(len(current)) < 300
    changed(data, temp=current["temp"].where(early, 95.0), y=current["y"].astype("boolean").where(early))
    run(config, data, model, tmp_path / "reports")
    figures = read(tmp_path / "reports/drift.json")
    assert float(str(figures["score_distance"])) > 0.5
    assert abs(float(str(figures["primary_change"]))) < 0.1


def test_without_rows_after_test_the_test_window_is_compared_and_everything_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepared(tmp_path / "data", current=0)
    windows = choose_windows(data)
    assert (windows.reference, windows.held_out, windows.current) == (("train", "validation"), "validation", "test")
    run(configured(time=False), data, None, tmp_path / "reports")
    assert "test itself is compared" in (tmp_path / "reports/drift/drift.html").read_text(encoding="utf-8")
    said = "drift: no rows come after the test window, so test itself is compared with train and validation\n"
    assert capsys.readouterr().err == said


def test_windows_without_rows_and_damaged_files_are_named(tmp_path: Path) -> None:
    data = prepared(tmp_path / "data")
    for name in ("test", "current"):
        pd.read_parquet(data / f"{name}.parquet")[:0].to_parquet(data / f"{name}.parquet")
    with pytest.raises(DataError, match=r"nothing to compare, no rows in test\.parquet, current\.parquet"):
        choose_windows(data)
    (data / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"test\.parquet: not a whole Parquet file"):
        choose_windows(data)
    (data / "test.parquet").unlink()
    with pytest.raises(DataError, match=r"test\.parquet: there is no such file"):
        choose_windows(data)


def test_evidently_illustrates_columns_with_values_and_the_bytes_are_the_same_twice(tmp_path: Path) -> None:
    config, data = configured(evidently_rows=200), prepared(tmp_path / "data")
    changed(data, carrier=None)
    for name in ("first", "second"):
        run(config, data, None, tmp_path / name)
    found = read(tmp_path / "first/drift/evidently.json")
    assert found["left_out"] == ["empty", "carrier"]
    assert found["tests"]
    assert "<html" in (tmp_path / "first/drift/evidently.html").read_text(encoding="utf-8")
    files = sorted(file.relative_to(tmp_path / "first") for file in (tmp_path / "first").rglob("*.*"))
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_evidently_that_fails_leaves_a_file_that_says_so_and_the_verdict(tmp_path: Path) -> None:
    config, data = configured(evidently_rows=200, ignore=["distance", "temp", "carrier"]), prepared(tmp_path / "data")
    run(config, data, None, tmp_path / "reports")
    assert "error" in read(tmp_path / "reports/drift/evidently.json")
    assert read(tmp_path / "reports/drift.json")["drifted"] == 0


def test_evidently_is_not_even_imported_when_it_is_off(tmp_path: Path) -> None:
    loaded = "evidently" in sys.modules
    run(configured(), prepared(tmp_path / "data"), None, tmp_path / "reports")
    assert ("evidently" in sys.modules) == loaded
    assert not (tmp_path / "reports/drift/evidently.html").exists()
