"""The report: one page a manager can read, with all it shows inside it. No script, nothing from the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stages.bundle import Signature
from stages.gate import Verdict
from stages.reporting.curves import Points
from stages.reporting.plots import Picture
from stages.reporting.slices import Slice
from stages.reporting.wording import Wording, worded
from stages.resampling import Interval

TEMPLATE = Path(__file__).with_name("page.html.j2")
CAPTIONS = {
    "roc": "How many of the positives are found for a rate of false alarms. The further up and left, the better.",
    "precision_recall": "What share of the alarms is right, for each share of the positives found.",
    "calibration": "Rows in groups of the same size, by prediction. On the dashed line the predictions can be taken "
    "at their word; bars are 95 % limits.",
    "confusion": "Of the rows that really were in a class (a line), how many were said to be in each.",
    "scores": "The better the colours are apart, the surer the model tells the classes.",
    "residuals": "Actual minus predicted. A heap that is not around zero means a model that is off to one side.",
    "predicted_actual": "Each dot is a row; on the dashed line the prediction is exact.",
    "importance": "What the model leans on. Columns that can stand in for each other share their importance. "
    "Lines span the repeats.",
}


@dataclass(frozen=True)
class MetricRow:
    name: str
    test: Interval
    validation: float | None
    dummy: float | None
    champion: float | None

    @cached_property
    def word(self) -> Wording:
        return worded(self.name)


@dataclass(frozen=True)
class Findings:
    """What evaluate found out."""

    title: str
    signature: Signature
    provenance: dict[str, Any]
    md5: str
    profile: dict[str, Any] | None
    metrics: tuple[MetricRow, ...]
    primary: str
    confidence: float
    units: str
    rows_test: int
    rows_validation: int
    verdict: Verdict
    slices: tuple[Slice, ...]
    points: dict[str, Points]

    @property
    def headline(self) -> MetricRow:
        return next(row for row in self.metrics if row.name == self.primary)

    def tree(self) -> dict[str, Any]:
        """As data/reports/metrics.json holds it; scorers keep scikit-learn's names and sign (greater is better)."""
        return {
            "test": {row.name: row.test.value for row in self.metrics},
            "test_low": {row.name: row.test.low for row in self.metrics},
            "test_high": {row.name: row.test.high for row in self.metrics},
            "validation": {row.name: row.validation for row in self.metrics},
            "dummy": {row.name: row.dummy for row in self.metrics},
            "gate_passed": int(self.verdict.passed),
            "threshold": self.signature.threshold,
            "rows_test": self.rows_test,
        }


def page(findings: Findings, pictures: Mapping[str, Picture]) -> str:
    """The page as HTML. The same findings give the same bytes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    by_column: dict[str, list[Slice]] = {}
    for part in findings.slices:
        by_column.setdefault(part.column, []).append(part)
    text = environment.get_template(TEMPLATE.name).render(
        f=findings,
        word=worded(findings.primary),
        pictures=[(picture, CAPTIONS[name]) for name, picture in pictures.items()],
        slices=by_column,
        span=slice_span(findings),
        worded=worded,
        model=_class_of(findings.provenance),
        with_champion=any(row.champion is not None for row in findings.metrics),
    )
    return text.strip() + "\n"


def slice_span(findings: Findings) -> tuple[float, float]:
    """The least and the greatest confidence limit among the slices and the whole, for the bars beside the figures."""
    limits = [findings.headline.test, *(part.primary for part in findings.slices)]
    ends = [end for one in limits for end in (one.low, one.high, one.value) if end is not None]
    return (min(ends), max(ends)) if ends and min(ends) < max(ends) else (0.0, 1.0)


def _class_of(provenance: dict[str, Any]) -> str:
    target = provenance.get("params", {}).get("model", {}).get("_target_", "")
    return str(target).rsplit(".", 1)[-1]
