from __future__ import annotations

import pytest

from stages.reporting.wording import DASH, MINUS, number, worded


def test_a_loss_is_told_without_its_minus_and_its_lower_limit_first() -> None:
    word = worded("neg_log_loss")
    assert (word.name, word.figure(-0.4012), word.limits(-0.41, -0.39)) == ("log loss", "0.401", "0.390 to 0.410")


def test_an_unknown_metric_keeps_its_own_words() -> None:
    assert worded("neg_median_absolute_error").name == "median absolute error"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.70649, "0.706"), (-0.0001, "0.000"), (54.321, "54.3"), (12345.6, "12,346"), (-0.25, f"{MINUS}0.250")],
)
def test_figures_have_the_places_that_say_something(value: float, text: str) -> None:
    assert number(value) == text


def test_what_is_undefined_is_a_dash() -> None:
    assert worded("r2").figure(None) == DASH
    assert worded("r2").limits(None, 1.0) == DASH
