"""The answer to the form, as the page says it: in words, with bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve.live import Variant
from serve.page.form import Field, short
from serve.runtime import Answers, Label
from stages.bundle import Signature

CLASSES = 10  # shown at most, the likeliest
MOST = 6  # features shown at most
LEAST = 0.001  # of a probability, or of the largest influence: smaller ones are not shown
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Share:
    """A class and its probability; width in % of the bar."""

    label: Label
    figure: str
    width: str


@dataclass(frozen=True)
class Influence:
    """A feature and how far it moves the score; x and width in % of the bar, whose middle is zero."""

    name: str
    value: str
    words: str
    side: str
    x: str
    width: str


@dataclass(frozen=True)
class Told:
    """What the page shows. moved names the score that the influences are about."""

    said: str
    cut: str
    classes: list[Share]
    moved: str
    influences: list[Influence]
    id: str
    variant: str
    md5: str
    asked: bool = True


def place_of(answers: Answers, signature: Signature) -> int:
    """Which score the influences are about: that of the class answered."""
    return 0 if signature.classes is None else signature.classes.index(answers.labels[0])


def told(answers: Answers, falls: Mapping[str, float], fields: list[Field], variant: Variant, name: str) -> Told:
    """One answer for the page. falls: as serve.runtime.influences gives them."""
    signature, label = variant.predictor.signature, answers.labels[0]
    scores = answers.scores[0]
    regression = signature.classes is None
    return Told(
        said=short(float(label)) if regression else str(label),
        cut=_cut(signature),
        classes=_shares(signature, scores),
        moved="the value" if regression else f"the probability of {label}",
        influences=_influences(falls, fields, regression),
        id=name,
        variant=variant.name,
        md5=variant.predictor.md5,
        asked=bool(falls),
    )


def _cut(signature: Signature) -> str:
    if signature.task != "binary" or signature.classes is None or signature.threshold is None:
        return ""
    return f"The answer is {signature.classes[1]} above a probability of {signature.threshold:.4g}."


def _shares(signature: Signature, scores: list[float]) -> list[Share]:
    pairs = list(zip(signature.classes or (), scores, strict=False))
    if len(pairs) > CLASSES:
        pairs = sorted(pairs, key=lambda pair: -pair[1])[:CLASSES]
    return [Share(label, f"{score:.1%}", f"{100 * min(max(score, 0.0), 1.0):.2f}") for label, score in pairs]


def _influences(falls: Mapping[str, float], fields: list[Field], regression: bool) -> list[Influence]:
    values = {field.name: field.value for field in fields}
    ranked = sorted(falls.items(), key=lambda pair: -abs(pair[1]))[:MOST]
    largest = abs(ranked[0][1]) if ranked else 0.0
    least = LEAST * largest if regression else LEAST
    return [_influence(name, fall, values[name], largest, regression) for name, fall in ranked if abs(fall) > least]


def _influence(name: str, fall: float, value: str, largest: float, regression: bool) -> Influence:
    size = short(abs(fall)) if regression else f"{100 * abs(fall):.1f} percentage points"
    width = 50 * abs(fall) / largest
    return Influence(
        name=name,
        value=f"= {value}" if value else "is missing",
        words=f"{'raises' if fall > 0 else 'lowers'} it by {size}",
        side="for" if fall > 0 else "against",
        x=f"{50.0 if fall > 0 else 50 - width:.2f}",
        width=f"{width:.2f}",
    )
