"""A predictor gives the bundle's own answers, whatever rows come together, and none where the bundle is not sound."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from serve.runtime import Predictor, influences, load, split
from stages.bundle import Rows, bundle_md5, decide, open_bundle
from stages.errors import ModelError
from tests.conftest import ROOT, Opened
from tests.serve.conftest import SIGNATURE, table


def test_labels_and_scores_are_those_of_the_bundle(predictor: Predictor, small_bundle: Path) -> None:
    X = table(50, seed=7)
    answers = predictor.answers(Rows.of(X, SIGNATURE))
    scores = open_bundle(small_bundle).predict_proba(X)
    assert answers.scores == scores.tolist()
    assert answers.labels == decide(scores, SIGNATURE).tolist()


def test_a_row_gets_the_same_bits_whichever_rows_come_with_it(predictor: Predictor) -> None:
    rows = Rows.of(table(100, seed=3), SIGNATURE)
    together = predictor.answers(rows)
    alone = [predictor.answers(rows[i : i + 1]) for i in range(100)]
    assert together.scores == [one.scores[0] for one in alone]
    assert together.labels == [one.labels[0] for one in alone]


def test_joined_answers_come_apart_in_their_order(predictor: Predictor) -> None:
    rows = Rows.of(table(6, seed=5), SIGNATURE)
    answers = predictor.answers(rows)
    parts = split(answers, [1, 3, 2])
    assert [len(part) for part in parts] == [1, 3, 2]
    assert [label for part in parts for label in part.labels] == answers.labels


def test_without_a_graph_scikit_learn_answers_the_same(
    predictor: Predictor, small_bundle: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(small_bundle, tmp_path / "model")
    (copy / "model.onnx").unlink()
    slow = load(copy, bundle_md5(copy))
    assert not slow.quick
    rows = Rows.of(table(40, seed=9), SIGNATURE)
    np.testing.assert_allclose(slow.answers(rows).scores, predictor.answers(rows).scores, atol=1e-12)


def test_what_was_loaded_answers_on_when_its_folder_changes(small_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(small_bundle, tmp_path / "model")
    loaded = load(copy, bundle_md5(copy))
    rows = Rows.of(table(10), SIGNATURE)
    before = loaded.answers(rows)
    shutil.rmtree(copy)
    assert loaded.answers(rows) == before
    assert loaded.signature == SIGNATURE
    assert loaded.model.provenance["compiled"].startswith("compiled, exact")


def test_a_bundle_that_scores_its_own_check_rows_otherwise_is_not_loaded(small_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(small_bundle, tmp_path / "model")
    check = json.loads((copy / "check.json").read_text())
    check["scores"][3] = [0.5, 0.25, 0.25 + 1e-5]
    (copy / "check.json").write_text(json.dumps(check))
    with pytest.raises(ModelError, match=r"off by .* on its own check rows; it is not served"):
        load(copy, bundle_md5(copy))


@pytest.mark.parametrize("damage", ["{}", '{"inputs": {}, "scores": []}', '{"inputs": {"size": [1]}, "scores": [[1]]}'])
def test_a_bundle_without_check_rows_that_fit_is_not_loaded(small_bundle: Path, tmp_path: Path, damage: str) -> None:
    copy = shutil.copytree(small_bundle, tmp_path / "model")
    (copy / "check.json").write_text(damage)
    with pytest.raises(ModelError):
        load(copy, bundle_md5(copy))


def test_the_influence_of_a_feature_that_the_model_does_not_use_is_nothing(predictor: Predictor) -> None:
    X = table(60, seed=2)
    said = influences(predictor, Rows.of(X.iloc[[0]], SIGNATURE), Rows.of(X, SIGNATURE), 0)
    assert list(said) == ["size", "weight", "colour"]
    assert abs(said["weight"]) > abs(said["size"])


def test_serving_a_compiled_bundle_imports_nothing_heavy(reproduced: Path, opened: Opened) -> None:
    code = (
        "import sys; from serve.app import app; from serve.live import Live; "
        "live = app.state.live; live._follow(); assert live.champion is not None, live.problems; "
        "heavy = {'dvc', 'mlflow', 'pandas', 'sklearn', 'scipy', 'duckdb', 'hydra', 'pyarrow'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    repo = opened(reproduced)
    env = {**repo.env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=repo.path, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_score_that_is_no_number_is_an_error_and_not_an_answer(predictor: Predictor) -> None:
    class Broken(Pipeline):  # type: ignore[misc]
        def predict_proba(self, X: object) -> object:
            return np.full((len(X), 3), np.nan)  # type: ignore[arg-type]

    model = open_bundle(predictor.model.path)
    broken = Predictor(type(model)(model.path, model.signature, model.provenance, None), "0" * 32)
    broken.model.__dict__["fitted"] = Broken([("x", "passthrough")])
    with pytest.raises(ModelError, match="gives a score that is no number"):
        broken.answers(Rows.of(table(2), SIGNATURE))
