"""A verified bundle as something that answers. Where it is compiled, without pandas and scikit-learn."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from stages.bundle import Array, Model, Rows, Signature, checked_rows, open_bundle
from stages.errors import ModelError

TOLERANCE = 1e-6  # what the compiled graph was allowed when it was written
AT_ONCE = 4096  # rows in one inference that nobody waits for

Label = int | float | str


@dataclass(frozen=True, slots=True)
class Answers:
    """n answers as Python values: labels (for a regression values), and n x k scores in the order of the classes."""

    labels: list[Label]
    scores: list[list[float]]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: slice) -> Answers:
        return Answers(self.labels[chosen], self.scores[chosen])


@dataclass(frozen=True)
class Predictor:
    """A model that passed its own check rows, and the md5 that names it. Its folder is never read again."""

    model: Model
    md5: str
    checked: Rows | None = None

    @property
    def signature(self) -> Signature:
        return self.model.signature

    @property
    def quick(self) -> bool:
        """Whether one row takes microseconds, so that it is answered where the request is read."""
        return self.model.compiled

    @cached_property
    def _labels(self) -> list[Label]:
        return list(self.signature.classes or ())

    def answers(self, rows: Rows) -> Answers:
        """The answers to rows, the same whichever rows come together. Raises ModelError where the model fails."""
        try:
            scores = self.model.scores_of(rows)
        except ModelError:
            raise
        except Exception as error:  # whatever an estimator or the graph's runtime raises
            raise ModelError(f"the model {self.md5} cannot answer these rows: {error}") from error
        if not np.isfinite(scores).all():
            raise ModelError(f"the model {self.md5} gives a score that is no number for these rows")
        return Answers(self._decided(scores), scores.tolist())

    def _decided(self, scores: Array) -> list[Label]:
        """As stages.bundle.decide, without making an array of the classes each time."""
        signature = self.signature
        if signature.classes is None:
            return list(scores[:, 0].tolist())
        if signature.task == "binary":
            cut = 0.5 if signature.threshold is None else signature.threshold
            low, high = self._labels
            return [high if score > cut else low for score in scores[:, 1].tolist()]
        return [self._labels[place] for place in scores.argmax(axis=1).tolist()]


def load(path: Path, md5: str) -> Predictor:
    """The bundle in a folder that nobody writes to, read whole, tried on its own check rows, and warm.

    Raises ModelError where it is damaged or gives other scores than it did when it was written.
    """
    model = open_bundle(path)
    rows, expected = checked_rows(path, model.signature)
    got = model.scores_of(rows)
    furthest = float(np.max(np.abs(got - expected) / np.maximum(1.0, np.abs(expected)), initial=0.0))
    if got.shape != expected.shape or not len(rows) or not furthest <= TOLERANCE:
        raise ModelError(f"{path}: its scores are off by {furthest:.1e} on its own check rows; it is not served")
    predictor = Predictor(model, md5, rows)
    for count in (1, 8, 64):  # the first run of a size is slow
        predictor.answers(rows[:count])
    _give_back()
    return predictor


def _give_back() -> None:
    """Return to the system what reading the graph took for a moment: half of the process, for a forest of some MB."""
    with suppress(OSError, AttributeError):  # the C library of Linux has it, others do not
        ctypes.CDLL(None).malloc_trim(0)


def split(answers: Answers, sizes: Sequence[int]) -> list[Answers]:
    """The answers to rows that were joined, apart again."""
    parts, start = [], 0
    for size in sizes:
        parts.append(answers[start : start + size])
        start += size
    return parts


def influences(predictor: Predictor, row: Rows, background: Rows, label: int) -> dict[str, float]:
    """How much the score of a class falls, in the mean, when one feature takes the values of other rows.

    Each feature by itself: what two do together counts for both. row: one row. background: m rows; with none, nothing
    can be told and the answer is empty. label: the place of the class (0 for a regression). By feature name.
    """
    signature, m = predictor.signature, len(background)
    here = float(predictor.model.scores_of(row)[0, label])
    fall: dict[str, float] = {}
    step = max(1, AT_ONCE // max(m, 1))
    for start in range(0, len(signature.columns) if m else 0, step):
        names = [column.name for column in signature.columns[start : start + step]]
        changed = Rows(np.repeat(row.numeric, m * len(names), axis=0), np.repeat(row.text, m * len(names), axis=0))
        for number, name in enumerate(names):
            rows = slice(number * m, (number + 1) * m)
            if name in signature.numeric:
                place = signature.numeric.index(name)
                changed.numeric[rows, place] = background.numeric[:, place]
            else:
                place = signature.text.index(name)
                changed.text[rows, place] = background.text[:, place]
        means = predictor.model.scores_of(changed)[:, label].reshape(len(names), m).mean(axis=1)
        fall |= {name: here - float(mean) for name, mean in zip(names, means, strict=True)}
    return fall
