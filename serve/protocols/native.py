"""`POST /predict`: {"features": [5.1, …]}, {"features": {name: value}}, or a list of records."""

from __future__ import annotations

from typing import Any

import msgspec

from serve.protocols import BadInputError, Decoded, Reply, Request, Served
from serve.protocols.parsing import decoded_json
from serve.protocols.reader import reader_of
from serve.protocols.rows import from_numbers, from_records
from serve.runtime import Answers
from stages.bundle import Rows, Signature

EXPECTED = 'expected {"features": [value, …]}, {"features": {name: value, …}} or a list of records'


class Numbers(msgspec.Struct, forbid_unknown_fields=True):
    """What most requests look like."""

    features: list[float]


_numbers = msgspec.json.Decoder(Numbers)
_encode = msgspec.json.Encoder().encode


class Native:
    """The tutorial's form, unchanged. `?probabilities=true` adds the probability of every class."""

    name = "native"

    def decode(self, request: Request, signature: Signature, most: int) -> Decoded:
        asked = bool(request.query) and b"probabilities=true" in request.query.split(b"&")
        rows, single = _quickly(request.body, signature, most)
        if rows is not None:
            return Decoded(rows, (single, asked))
        records, single = records_of(decoded_json(request.body))
        return Decoded(from_records(records, signature, most), (single, asked))

    def encode(self, answers: Answers, decoded: Decoded, signature: Signature, served: Served) -> Reply:  # noqa: ARG002
        single, asked = decoded.reply
        pairs = zip(answers.labels, answers.scores, strict=True)
        given = [answer(label, scores, signature, asked) for label, scores in pairs]
        return Reply(_encode(given[0] if single else given))

    def refuse(self, status: int, message: str) -> Reply:
        return Reply(_encode({"detail": message}), status)


def answer(label: Any, scores: list[float], signature: Signature, probabilities: bool) -> dict[str, Any]:
    """One prediction; for a class, the probability of that class, and of every class where asked for."""
    if signature.classes is None:
        return {"prediction": label}
    said = {"prediction": label, "probability": scores[signature.classes.index(label)]}
    if probabilities:
        said["probabilities"] = dict(zip(map(str, signature.classes), scores, strict=True))
    return said


def records_of(body: Any) -> tuple[list[Any], bool]:
    """The rows of a body, and whether it is a single one."""
    if isinstance(body, dict) and len(body) == 1 and isinstance(body.get("features"), (list, dict)):
        return [body["features"]], True
    if isinstance(body, list) and all(isinstance(row, dict) for row in body):
        return body, False
    raise BadInputError(EXPECTED)


def _quickly(body: bytes, signature: Signature, most: int) -> tuple[Rows | None, bool]:
    """The rows where they come as they mostly do, and whether it is a single one."""
    if body[:1] == b"[":
        return reader_of(signature).many(body, most), False
    if not signature.text:
        try:
            rows = from_numbers(_numbers.decode(body).features, signature)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError):
            rows = None
        if rows is not None and body.count(b":") == 1:  # more of them: `features` is given twice
            return rows, True
    return reader_of(signature).one(body), True
