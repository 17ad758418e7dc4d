"""The limits that all tests of drift are held against."""

from __future__ import annotations

from stages.config import Drift

LIMITS = Drift(
    alpha=0.01,
    effect=0.1,
    missing=0.02,
    new=0.01,
    share=0.3,
    sample=100_000,
    classifier=0.75,
    calibration=0.03,
    performance=0.02,
    evidently_rows=0,
    ignore=(),
)
