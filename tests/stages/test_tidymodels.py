"""The published setting (tidymodels' nycflights13 article): found out by the leakage check, and reproduced."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from stages.configure import composed
from stages.dataset import read_split
from stages.errors import DataError
from stages.ingest import ingest
from stages.nodes import build_pipeline
from stages.prepare import prepare

ACCEPTED = "data.leakage.accepted=[dep_time,air_time]"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tidymodels") / "raw"
    ingest(composed(["+experiment=tidymodels"])[1].data.tables, folder)
    return folder


@pytest.mark.slow
def test_the_leakage_check_stops_the_published_setting_and_names_both_leaks(raw: Path, tmp_path: Path) -> None:
    _, config = composed(["+experiment=tidymodels"])
    with pytest.raises(DataError, match=r"accepted: \[dep_time, air_time\]") as error:
        prepare(config, config.data.query.read_text(encoding="utf-8"), tmp_path / "prepared", raw)
    assert "dep_time: not known in time" in str(error.value)
    assert "air_time: not known in time" in str(error.value)
    assert not (tmp_path / "prepared").exists()


@pytest.mark.slow
def test_with_the_leaks_accepted_the_published_auc_is_reproduced(raw: Path, tmp_path: Path) -> None:
    areas = []
    for seed in (1, 2, 3):
        _, config = composed(["+experiment=tidymodels", ACCEPTED, f"data.split.seed={seed}"])
        out = tmp_path / str(seed)
        report = prepare(config, config.data.query.read_text(encoding="utf-8"), out, raw)
        assert report["rows"] == 325_819
        late = sum(split["target"]["classes"].get("1", 0) for split in report["splits"].values())
        assert late == 52_540
        train, test = (read_split(config.data.columns, config.data.task, name, out) for name in ("train", "test"))
        pipeline = build_pipeline(config.features, config.model, config.train.targets).fit(train.X, train.y)
        areas.append(roc_auc_score(test.y, pipeline.predict_proba(test.X)[:, 1]))
    assert statistics.median(areas) == pytest.approx(0.764, abs=0.005)
