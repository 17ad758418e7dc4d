from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np

from stages.reporting.curves import curves
from stages.reporting.plots import Setting, draw
from stages.scoring import classified

RNG = np.random.default_rng(0)
SETTING = Setting("kind", "roc_auc", True, None)


def points(classes: int) -> dict[str, list[dict[str, object]]]:
    y = RNG.integers(0, classes, 400)
    scores = RNG.dirichlet(np.ones(classes), 400)
    names = tuple(f"class <{k}>" for k in range(classes))
    labels = np.array(names, dtype="object")
    return curves(classified(labels[y], labels[scores.argmax(axis=1)], scores, names), 0)


def test_only_plots_with_points_are_drawn() -> None:
    assert draw({"roc": [], "residuals": []}, SETTING) == {}


def test_a_png_says_nothing_of_when_or_by_what_it_was_made() -> None:
    png = draw({"roc": points(3)["roc"]}, SETTING)["roc"].png
    assert png.startswith(b"\x89PNG")
    assert b"tEXt" not in png


def test_every_colour_of_an_svg_follows_the_page() -> None:
    for picture in draw(points(3), SETTING).values():
        ET.fromstring(picture.svg)
        assert not re.search(r"#[0-9a-f]{6}", picture.svg)
        assert "<script" not in picture.svg
        assert "var(--s0)" in picture.svg


def test_many_classes_are_drawn_too() -> None:
    assert set(draw(points(15), SETTING)) == {"roc", "precision_recall", "calibration", "confusion", "scores"}
