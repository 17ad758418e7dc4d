"""Small models to serve, made in a moment, and a service as a real process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from serve.runtime import Predictor, load
from stages.bundle import Signature, SignatureColumn, bundle_md5
from stages.dataset import Split
from stages.train import write_bundle
from tests.conftest import Shared, environment
from tests.serve.service import Workspace, make_workspace

SIGNATURE = Signature(
    "multiclass",
    "grade",
    ("a", "b", "c"),
    None,
    (
        SignatureColumn("size", "numeric", True, "cm", -3.0, 3.0),
        SignatureColumn("weight", "numeric", True, None, -3.0, 3.0),
        SignatureColumn("colour", "categorical", True, None, categories=("blue", "red")),
    ),
)
ORIGIN = {"params": {"data": {"name": "tests"}, "model": {"_target_": "x"}}, "data": {}, "code": {}, "libraries": {}}


def table(rows: int = 300, seed: int = 0) -> pd.DataFrame:
    """Rows as SIGNATURE takes them, some values missing."""
    random = np.random.default_rng(seed)
    X = pd.DataFrame({name: random.normal(size=rows) for name in ("size", "weight")})
    X["colour"] = random.choice(["red", "blue", ""], rows)
    X.loc[random.random(rows) < 0.1, "size"] = np.nan
    return X.astype({"colour": "object"})


def write_small_bundle(path: Path, seed: int = 0) -> str:
    """A forest on `table`, another for each seed; its md5."""
    X = table(seed=seed)
    y = np.select([X["weight"] > 0.5, X["colour"] == "red"], ["a", "b"], "c").astype("object")
    features = ColumnTransformer(
        [
            ("n", "passthrough", ["size", "weight"]),
            ("c", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["colour"]),
        ]
    )
    forest = RandomForestClassifier(20, max_depth=4, random_state=seed)
    pipeline = Pipeline([("features", features), ("model", forest)]).fit(X, y)
    write_bundle(path, pipeline, SIGNATURE, ORIGIN, Split(X, y, None, pd.DataFrame(), pd.DataFrame()))
    return bundle_md5(path)


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with numbers, a text and three classes, compiled."""
    path = tmp_path_factory.mktemp("bundle") / "model"
    write_small_bundle(path)
    return path


@pytest.fixture(scope="session")
def predictor(small_bundle: Path) -> Predictor:
    return load(small_bundle, bundle_md5(small_bundle))


@pytest.fixture(scope="session")
def two_models(shared: Shared) -> Workspace:
    """A repository with two small models in DVC's cache, of which dvc.lock pins `a`; work in a copy."""
    folder = shared("two_models", lambda folder: make_workspace(folder, write_small_bundle))
    return Workspace(folder / "repo", environment(folder))
