"""What a table must have to be scored, and the columns that are put behind those that came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from serve.protocols import BadInputError
from serve.protocols.rows import shown
from serve.runtime import Answers
from stages.bundle import Rows, Signature, SignatureColumn

TOGETHER = 4096  # rows in one inference

Tell = Callable[[Rows, Answers], None]  # called after each batch, in the thread that scores


def added(signature: Signature) -> list[str]:
    """The names of the columns that are put behind the others."""
    return ["prediction", *(f"probability_{label}" for label in signature.classes or ())]


def places_of(names: Sequence[str], signature: Signature) -> dict[str, int]:
    """Where the features are. None may be left out: a name with a slip of the pen would count as missing."""
    places = {name: place for place, name in enumerate(names)}
    if len(places) < len(names):
        twice = next(name for place, name in enumerate(names) if places[name] != place)
        raise BadInputError(f"two columns are called {shown(twice)}")
    for column in signature.columns:
        if column.name not in places:
            known = {c.name for c in signature.columns}
            near = get_close_matches(column.name, [name for name in names[:1000] if name not in known], 1)
            guess = f" (is it {shown(near[0])}?)" if near else ""
            raise BadInputError(f"there is no column {column.name}{guess}; a file has a column for every feature")
    for name in added(signature):
        if name in places:
            raise BadInputError(f"there is a column {name} already; rename it, for the answers go there")
    return places


def missing(column: SignatureColumn, where: str) -> BadInputError:
    """What is said of a value that is not there and has to be."""
    return BadInputError(f"{where}: {column.name} is missing; this feature is always given")


def fields(answers: Answers, signature: Signature) -> Iterator[list[Any]]:
    """What stands in the added columns, row by row."""
    for label, scores in zip(answers.labels, answers.scores, strict=True):
        yield [label] if signature.classes is None else [label, *scores]
