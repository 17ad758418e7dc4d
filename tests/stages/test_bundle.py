"""A bundle is opened whole or refused, with the path; DVC's md5 names it and its cache gives it back."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, KBinsDiscretizer, OneHotEncoder, SplineTransformer
from sklearn.svm import LinearSVC

from stages.bundle import Signature, SignatureColumn, bundle_md5, decide, file_md5, open_bundle
from stages.dataset import Split
from stages.errors import ModelError
from stages.fitted import dump_pipeline, load_pipeline
from stages.train import write_bundle
from stages.versions import versions

COLUMNS = (
    SignatureColumn("size", "numeric", True, None, -3.0, 3.0),
    SignatureColumn("colour", "categorical", True, None, categories=("blue", "red")),
)
SIGNATURE = Signature("binary", "answer", ("no", "yes"), 0.3, COLUMNS)
ORIGIN = {"params": {"data": {"name": "tests"}, "model": {"_target_": "x"}}, "data": {}, "code": "0" * 32}


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    random = np.random.default_rng(0)
    X = pd.DataFrame({"size": random.normal(size=300), "colour": random.choice(["red", "blue"], 300)})
    return X.astype({"colour": "object"})


@pytest.fixture(scope="module")
def written(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "model"
    y = np.where(rows["size"] > 0.5, "yes", "no").astype("object")
    pipeline = Pipeline([("features", _features()), ("model", LogisticRegression())]).fit(rows, y)
    write_bundle(path, pipeline, SIGNATURE, ORIGIN, Split(rows, y, None, pd.DataFrame(), pd.DataFrame()))
    return path


@pytest.fixture
def bundle(written: Path, in_empty_folder: None) -> Path:
    """data/model, with labels no and yes."""
    return shutil.copytree(written, Path("data/model"))


def _features() -> ColumnTransformer:
    return ColumnTransformer(
        [("n", "passthrough", ["size"]), ("c", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["colour"])]
    )


def test_an_opened_bundle_says_what_was_written(bundle: Path, rows: pd.DataFrame) -> None:
    model = open_bundle(bundle)
    assert model.signature == SIGNATURE
    assert model.provenance["compiled"].startswith("compiled, exact")
    probability = model.fitted.predict_proba(rows)
    np.testing.assert_allclose(model.predict_proba(rows), probability, atol=1e-12)
    assert model.predict(rows).tolist() == np.where(probability[:, 1] > 0.3, "yes", "no").tolist()
    assert model.predict(rows.head(0)).shape == (0,)
    assert model.predict_proba(rows.head(0)).shape == (0, 2)


def test_without_the_graph_scikit_learn_answers(bundle: Path, rows: pd.DataFrame) -> None:
    with_graph = open_bundle(bundle).predict_proba(rows)
    (bundle / "model.onnx").unlink()
    np.testing.assert_allclose(open_bundle(bundle).predict_proba(rows), with_graph, atol=1e-12)


def test_a_probability_at_the_threshold_is_not_positive() -> None:
    scores = np.array([[0.7, 0.3], [0.69, 0.31]])
    assert decide(scores, SIGNATURE).tolist() == ["no", "yes"]
    three = Signature("multiclass", "t", (3, 5, 9), None)
    assert decide(np.array([[0.2, 0.2, 0.6], [0.5, 0.5, 0.0]]), three).tolist() == [9, 3]


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 3
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def _empty(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [_half, _flipped, _empty])
def test_a_damaged_pipeline_is_refused_with_its_path(bundle: Path, damage: Callable[[bytes], bytes]) -> None:
    path = bundle / "pipeline.skops"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=r"data/model/pipeline.skops: cannot be read .*`dvc checkout` restores it"):
        _ = open_bundle(bundle).fitted


@pytest.mark.parametrize("damage", [_half, _empty])
def test_a_damaged_graph_is_refused_with_its_path(
    bundle: Path, rows: pd.DataFrame, damage: Callable[[bytes], bytes]
) -> None:
    path = bundle / "model.onnx"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=r"data/model/model.onnx: cannot be loaded"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: text.replace(b'"task"', b'"tusk"'), "not a signature"),
        (lambda text: text.replace(b'"columns"', b'"colums"'), "not a signature"),
        (lambda _: b'{"task": "binary"}', "not a signature"),
        (
            lambda _: b'{"task": "binary", "target": "t", "classes": 3, "columns": []}',
            "not a signature",
        ),
        (lambda _: b"\xff", "damaged"),
        (lambda _: b"[]", "expected an object"),
    ],
)
def test_a_damaged_signature_is_refused_with_its_path(
    bundle: Path, content: Callable[[bytes], bytes], said: str
) -> None:
    path = bundle / "signature.json"
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(ModelError, match=rf"data/model/signature.json: {said}"):
        open_bundle(bundle)


def test_a_folder_that_is_no_bundle_is_told(bundle: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere/signature.json: there is no such file; `dvc repro` trains a model"):
        open_bundle("nowhere")
    with pytest.raises(ModelError, match=r"nowhere: there is no such folder"):
        bundle_md5(Path("nowhere"))


# --- types that are not trusted


def harm(X: Any) -> Any:
    return X


def test_a_type_that_is_not_trusted_is_never_loaded(rows: pd.DataFrame) -> None:
    pipeline = Pipeline([("features", FunctionTransformer(harm)), ("model", LogisticRegression())])
    dump_pipeline(pipeline.fit(rows[["size"]], rows["size"] > 0), Path("p.skops"))
    with pytest.raises(ModelError, match=r"p.skops: holds types that are not trusted: .*harm; it is not loaded"):
        load_pipeline(Path("p.skops"))


_IDS = count(10**9)


def _node(name: str, module: str, loader: str, **rest: Any) -> dict[str, Any]:
    return {"__class__": name, "__module__": module, "__loader__": loader, "__id__": next(_IDS), **rest}


def _words(*words: str) -> list[dict[str, Any]]:
    return [_node("str", "builtins", "JsonNode", content=json.dumps(word), is_json=True) for word in words]


@pytest.mark.parametrize("loader", ["LossNode", "TreeNode", "ConstructorFromReduceNode", "FunctionNode"])
@pytest.mark.parametrize(
    ("module", "name"),
    [("subprocess", "check_output"), ("os", "system"), ("builtins", "eval"),
     # what a trusted library happens to import is not a part of it
     ("sklearn.utils._testing", "check_output"), ("numpy.testing._private.utils", "runstring"),
     ("numpy.f2py.diagnose", "run"), ("sklearn.datasets", "fetch_openml"), ("joblib", "load"), ("numpy", "load")],
)  # fmt: skip
def test_a_file_that_names_a_function_to_call_does_not_get_it_called(
    bundle: Path, module: str, name: str, loader: str
) -> None:
    """A crafted file: scikit-learn's own loss or tree replaced by a call of any function with any arguments."""
    path = bundle / "pipeline.skops"
    with zipfile.ZipFile(path) as archive:
        parts = {item: archive.read(item) for item in archive.namelist()}
    schema = json.loads(parts["schema.json"])
    command = _node("list", "builtins", "ListNode", content=_words("touch", "harmed"))
    args = _node("tuple", "builtins", "TupleNode", content=[command])
    empty = _node(
        "dict", "builtins", "DictNode", content={}, key_types=_node("list", "builtins", "ListNode", content=[])
    )
    crafted = _node(name, module, loader, __reduce__={"args": args}, content=empty)
    if loader in ("FunctionNode", "ConstructorFromReduceNode"):
        crafted["content"] = (
            args if loader == "ConstructorFromReduceNode" else {"module_path": module, "function": name}
        )
    parts["schema.json"] = json.dumps({**schema, **crafted}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for item, content in parts.items():
            archive.writestr(item, content)
    with pytest.raises(ModelError, match=rf"holds types that are not trusted: .*{name}; it is not loaded"):
        load_pipeline(path)
    assert not Path("harmed").exists()


def test_a_pipeline_of_other_versions_is_told_in_one_warning(bundle: Path) -> None:
    made = json.loads((bundle / "provenance.json").read_text())
    here = versions()
    origin = {**made, "libraries": {**here, "scikit-learn": "1.2.3", "lightgbm": "0.1", "skops": "0.1"}}
    (bundle / "provenance.json").write_text(json.dumps(origin))
    expected = rf"skops: made with scikit-learn 1\.2\.3 \(here {here['scikit-learn']}\); its answers may not"
    with pytest.warns(UserWarning, match=expected) as said:
        assert open_bundle(bundle).fitted is not None
    assert len(said) == 1  # LightGBM is not in this pipeline


def test_pipelines_that_people_build_are_trusted(rows: pd.DataFrame) -> None:
    X, y = rows[["size"]], rows["size"] > 0
    steps: list[tuple[Any, Any]] = [
        (SplineTransformer(), CalibratedClassifierCV(LogisticRegression(), cv=2)),
        (SelectKBest(f_classif, k=1), GradientBoostingClassifier(n_estimators=2)),
        (FunctionTransformer(np.log1p), KNeighborsClassifier()),
        (KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"), LinearSVC()),
    ]
    for features, model in steps:
        pipeline = Pipeline([("features", features), ("model", model)]).fit(X.abs(), y)
        dump_pipeline(pipeline, Path("p.skops"))
        assert load_pipeline(Path("p.skops")).predict(X.abs()).tolist() == pipeline.predict(X.abs()).tolist()


def test_the_same_pipeline_is_the_same_bytes(rows: pd.DataFrame) -> None:
    for name in ("a", "b"):
        pipeline = Pipeline([("features", _features()), ("model", LogisticRegression())])
        dump_pipeline(pipeline.fit(rows, rows["size"] > 0), Path(f"{name}.skops"))
    assert file_md5(Path("a.skops")) == file_md5(Path("b.skops"))
    assert not list(Path().glob("*.draft"))
