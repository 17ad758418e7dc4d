from __future__ import annotations

import numpy as np
import pytest

from stages.drifting.units import recognise

generator = np.random.default_rng(7)
MILES = np.round(generator.lognormal(6.6, 0.7, 6000))
FAHRENHEIT = np.round(generator.normal(55, 18, 6000), 1)


def test_miles_that_became_kilometres_are_named() -> None:
    found = recognise(MILES, generator.permutation(MILES)[:3000] * 1.609344, "miles")
    assert str(found) == "\u00d7 1.609 (miles → kilometres)"


def test_a_conversion_that_was_rounded_is_recognised() -> None:
    assert "miles → kilometres" in str(recognise(MILES, np.round(MILES * 1.609344)))


def test_fahrenheit_that_became_celsius_is_named_with_its_offset() -> None:
    assert str(recognise(FAHRENHEIT, (FAHRENHEIT - 32) / 1.8)) == "\u00d7 0.5556 - 17.78 (°F → °C)"


def test_the_way_back_is_recognised_too() -> None:
    assert "°C → °F" in str(recognise((FAHRENHEIT - 32) / 1.8, FAHRENHEIT, "celsius"))


def test_the_declared_unit_decides_between_names_for_one_factor() -> None:
    assert "mph → km/h" in str(recognise(MILES, MILES * 1.609344, "mph"))


def test_a_factor_that_no_table_knows_is_given_bare() -> None:
    assert str(recognise(MILES, MILES * 7.7, "miles")) == "\u00d7 7.7"


def test_a_named_conversion_out_of_another_unit_is_not_claimed() -> None:
    assert str(recognise(MILES, MILES * 0.3048, "hours")) == "\u00d7 0.3048"


@pytest.mark.parametrize("shift", [3.0, 8.0, 20.0])
def test_a_shift_of_the_mean_is_no_change_of_unit(shift: float) -> None:
    assert recognise(FAHRENHEIT, FAHRENHEIT + shift) is None


def test_equal_values_are_no_change_of_unit() -> None:
    assert recognise(MILES, MILES) is None


def test_nothing_is_recognised_in_no_values() -> None:
    assert recognise(np.array([]), MILES) is None
