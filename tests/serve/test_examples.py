"""What people are shown first is a row that the model takes, made of nobody's data."""

from __future__ import annotations

import numpy as np

from serve.examples import typical_row, usual_rows
from serve.protocols.rows import from_records
from serve.runtime import Predictor, influences
from stages.bundle import Rows
from tests.serve.conftest import SIGNATURE, table


def test_usual_rows_hold_what_was_seen_in_training_and_nothing_that_only_tries_the_model(predictor: Predictor) -> None:
    rows = usual_rows(predictor)
    assert predictor.checked is not None
    assert 0 < len(rows) < len(predictor.checked)
    there = rows.numeric[~np.isnan(rows.numeric)]
    assert np.abs(there).max() <= 3
    assert set(rows.text[:, 0]) <= {"red", "blue", ""}


def test_a_typical_row_is_answered_as_it_stands(predictor: Predictor) -> None:
    row = typical_row(predictor)
    assert list(row) == ["size", "weight", "colour"]
    assert row["colour"] in ("red", "blue")
    assert len(predictor.answers(from_records([row], SIGNATURE, 1))) == 1


def test_a_model_without_check_rows_has_an_example_all_the_same(predictor: Predictor) -> None:
    bare = Predictor(predictor.model, predictor.md5)
    assert typical_row(bare) == {"size": -3, "weight": -3, "colour": "blue"}
    row = from_records([typical_row(bare)], SIGNATURE, 1)
    assert influences(bare, row, usual_rows(bare), 0) == {}


def test_influences_in_pieces_are_those_of_one_feature_after_the_other(predictor: Predictor) -> None:
    X = table(3000, seed=6)  # so many that each feature is an inference of its own
    row, background = Rows.of(X.iloc[[0]], SIGNATURE), Rows.of(X, SIGNATURE)
    falls = influences(predictor, row, background, 1)
    here = predictor.model.scores_of(row)[0, 1]
    for name in X.columns:
        other = X.assign(**{kept: X[kept].iloc[0] for kept in X.columns if kept != name})
        expected = here - predictor.model.scores_of(Rows.of(other, SIGNATURE))[:, 1].mean()
        assert falls[name] == expected
