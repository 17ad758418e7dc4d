"""`POST /invocations`, as MLflow's scoring server and containers of SageMaker answer it."""

from __future__ import annotations

from typing import Any

import msgspec

from serve.protocols import BadInputError, Decoded, Reply, Request, Served
from serve.protocols.commas import from_csv, to_csv
from serve.protocols.parsing import decoded_json
from serve.protocols.rows import few_enough, from_records, shown
from serve.protocols.tables import from_inputs, from_instances, from_table
from serve.runtime import Answers
from stages.bundle import Rows, Signature

JSON, CSV = b"application/json", b"text/csv"
LINES = (b"application/jsonlines", b"application/x-ndjson")
FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
CODES = {
    401: "UNAUTHENTICATED",
    404: "RESOURCE_DOES_NOT_EXIST",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

_encode = msgspec.json.Encoder().encode


class Invocations:
    """JSON in one of four forms, CSV or JSON lines; answers as JSON, or as CSV or JSON lines where `Accept` says so."""

    name = "invocations"

    def decode(self, request: Request, signature: Signature, most: int) -> Decoded:
        kind = _kind(request.headers.get(b"content-type", JSON))
        accept = _first(request.headers.get(b"accept", JSON))
        if kind == CSV:
            rows, headed = from_csv(request.body, signature, most)
            return Decoded(rows, (accept, headed))
        if kind in LINES:
            return Decoded(_from_lines(request.body, signature, most), (accept, True))
        return Decoded(_from_json(decoded_json(request.body, nan=True), signature, most), (accept, True))

    def encode(self, answers: Answers, decoded: Decoded, signature: Signature, served: Served) -> Reply:  # noqa: ARG002
        accept, headed = decoded.reply
        names = ["prediction", *(f"probability_{label}" for label in signature.classes or ())]
        scores = answers.scores if signature.classes is not None else [[]] * len(answers)
        rows = [[label, *given] for label, given in zip(answers.labels, scores, strict=True)]
        if accept == CSV:
            return Reply(to_csv([names, *rows] if headed else rows), content_type=b"text/csv; charset=utf-8")
        if accept in LINES:
            return Reply(b"".join(_encode(dict(zip(names, row, strict=True))) + b"\n" for row in rows), 200, accept)
        return Reply(_encode({"predictions": [dict(zip(names, row, strict=True)) for row in rows]}))

    def refuse(self, status: int, message: str) -> Reply:
        status = 400 if status == 422 else status
        return Reply(_encode({"error_code": CODES.get(status, "BAD_REQUEST"), "message": message}), status)


def _first(header: bytes) -> bytes:
    return header.partition(b",")[0].partition(b";")[0].strip().lower()


def _kind(header: bytes) -> bytes:
    """The content type. Raises BadInputError (415)."""
    kind, _, rest = header.partition(b";")
    kind, charset = kind.strip().lower() or JSON, rest.strip().lower().replace(b'"', b"")
    if charset.startswith(b"charset=") and charset != b"charset=utf-8":
        raise BadInputError("the body may be in UTF-8 only", status=415)
    if kind not in (JSON, CSV, *LINES):
        said = f"cannot read {shown(kind.decode('latin-1'))}; send application/json, text/csv or application/jsonlines"
        raise BadInputError(f"{said}, or Parquet and Arrow streams to /predict/file", status=415)
    return kind


def _from_json(body: Any, signature: Signature, most: int) -> Rows:
    given = [form for form in FORMS if form in body] if isinstance(body, dict) else []
    if len(given) != 1:
        said = f"there are {' and '.join(given)}" if given else "there is none"
        raise BadInputError(f"expected a JSON object with exactly one of {', '.join(FORMS)}; {said}", status=400)
    form, data = given[0], body[given[0]]
    if not isinstance(body.get("params"), (dict, type(None))):
        raise BadInputError(f"`params` is {shown(body['params'])}; expected an object", status=400)
    if form == "instances":
        return from_instances(data, signature, most)
    if form == "inputs":
        return from_inputs(data, signature, most)
    if form == "dataframe_split":
        return _from_split(data, signature, most)
    if not isinstance(data, list):
        raise BadInputError(f"`dataframe_records` is {shown(data)}; expected a list of records", status=400)
    return from_records(data, signature, most, extra=True)


def _from_split(data: Any, signature: Signature, most: int) -> Rows:
    """{"columns": …, "data": …}; a column that the model does not take is passed over, as MLflow does."""
    if not isinstance(data, dict) or "data" not in data or not data.keys() <= {"columns", "index", "data"}:
        raise BadInputError("expected `dataframe_split` to be an object of columns, data and perhaps index", status=400)
    columns, rows = data.get("columns"), data["data"]
    if not isinstance(rows, list):
        raise BadInputError(f"`data` is {shown(rows)}; expected a list of rows", status=400)
    if columns is not None and not (isinstance(columns, list) and all(isinstance(name, str) for name in columns)):
        raise BadInputError(f"`columns` is {shown(columns)}; expected a list of names", status=400)
    return from_table(columns, rows, signature, most)


def _from_lines(body: bytes, signature: Signature, most: int) -> Rows:
    """A row a line, {name: value}, [value, …] or {"features": [value, …]}."""
    lines = [line for line in body.split(b"\n") if not line.isspace() and line]
    few_enough(len(lines), most)
    rows = [decoded_json(line, nan=True) for line in lines]
    wrapped = all(isinstance(row, dict) and [*row] == ["features"] for row in rows)
    if wrapped and "features" not in {column.name for column in signature.columns}:
        rows = [row["features"] for row in rows]
    return from_records(rows, signature, most)
