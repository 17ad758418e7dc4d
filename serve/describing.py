"""The API as the live model has it: OpenAPI, and the page at /docs with commands that work as they stand."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse

from serve.examples import typical_row
from serve.formats import FORMATS
from serve.live import Live
from serve.page.form import hint
from serve.page.rendering import rendered
from serve.runtime import Predictor
from serve.settings import Settings
from stages.bundle import Signature, SignatureColumn

EXAMPLES = 20  # categories named in a description
HOST = re.compile(r"[A-Za-z0-9.\-]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?")
ERRORS = {
    "400": "The body is not what it says it is.",
    "401": "The API key is missing or wrong.",
    "413": "More bytes or rows than one request may have.",
    "422": "A value does not fit the signature; the message names it.",
    "503": "No model is loaded yet, or too many requests are waiting; Retry-After says when to try again.",
}


class Describing:
    """The routes /openapi.json and /docs of an application."""

    def __init__(self, app: FastAPI, live: Live, settings: Settings) -> None:
        self._app, self._live, self._settings = app, live, settings
        self._made: tuple[str | None, dict[str, Any]] | None = None

    def mount(self) -> None:
        """Let the application describe itself so."""
        self._app.openapi = self.openapi  # type: ignore[method-assign]
        self._app.add_api_route("/docs", self.docs, methods=["GET"], include_in_schema=False)

    def openapi(self) -> dict[str, Any]:
        """The description for the model that is live now; made anew when another is."""
        champion = self._live.champion
        md5 = None if champion is None else champion.predictor.md5
        if self._made is None or self._made[0] != md5:
            tree = get_openapi(title=self._app.title, version=md5 or "no model yet", routes=self._app.routes)
            if champion is not None:
                describe(tree, champion.predictor, self._settings.serve.limits.rows)
            if self._settings.api_key is not None:
                _locked(tree)
            self._made = md5, tree
        return self._made[1]

    async def docs(self, request: Request) -> HTMLResponse:
        """The same for people."""
        champion = self._live.champion
        host = request.headers.get("host", "")
        base = (
            f"{request.url.scheme}://{host if HOST.fullmatch(host) else 'localhost:8000'}{request.scope['root_path']}"
        )
        return rendered(
            "docs.html.j2",
            here="docs",
            paths=_listed(self.openapi()),
            commands=commands(champion.predictor, base, self._settings.api_key is not None) if champion else [],
            columns=[(column, hint(column)) for column in champion.predictor.signature.columns] if champion else [],
            target=champion.predictor.signature.target if champion else "",
            errors=ERRORS,
            answer=json.dumps(answer_example(champion.predictor), indent=1, ensure_ascii=False) if champion else "",
        )


def describe(tree: dict[str, Any], predictor: Predictor, most: int) -> None:
    """Put into an OpenAPI tree what the model takes and gives. most: rows in one request."""
    signature, row = predictor.signature, typical_row(predictor)
    schemas = tree.setdefault("components", {}).setdefault("schemas", {})
    schemas["Features"] = {
        "type": "object",
        "properties": {column.name: _column(column) for column in signature.columns},
        "required": [column.name for column in signature.columns if not column.nullable],
        "additionalProperties": False,
        "example": row,
    }
    schemas["Values"] = {
        "type": "array",
        "description": "The features in the order of the signature.",
        "prefixItems": [_column(column) for column in signature.columns],
        "items": False,
        "minItems": len(signature.columns),
        "maxItems": len(signature.columns),
        "example": list(row.values()),
    }
    schemas["Answer"] = _answer(signature)
    schemas["Error"] = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
    tree["paths"]["/predict"]["post"] = _predict(predictor, row, most)
    tree["paths"]["/predict/file"] = {"post": _file()}


def answer_example(predictor: Predictor) -> Any:
    """What the model answers to the example row."""
    from serve.protocols.native import answer
    from serve.protocols.rows import from_records

    answers = predictor.answers(from_records([typical_row(predictor)], predictor.signature, 1))
    return answer(answers.labels[0], answers.scores[0], predictor.signature, False)


def commands(predictor: Predictor, base: str, key: bool) -> list[tuple[str, str]]:
    """A title and a command for a shell, each working as it stands, but for the key where one is asked for."""
    row = typical_row(predictor)
    said = ["-H 'x-api-key: YOUR-KEY'"] if key else []

    def curl(path: str, body: str, kind: str) -> str:
        return " \\\n  ".join(
            [f"curl -sS {shlex.quote(base + path)}", f"-H 'content-type: {kind}'", *said, f"--data-binary {body}"]
        )

    def sent(body: Any) -> str:
        return shlex.quote(json.dumps(body, ensure_ascii=False))

    header, line = ",".join(map(_csv, row)), ",".join(map(_csv, row.values()))
    file = f"printf '%s\\n' {shlex.quote(header)} {shlex.quote(line)} |\n"
    return [
        ("Features by name", curl("/predict", sent({"features": row}), "application/json")),
        (
            "Features in the order of the signature",
            curl("/predict", sent({"features": [*row.values()]}), "application/json"),
        ),
        (
            "Several rows, with all probabilities",
            curl("/predict?probabilities=true", sent([row, row]), "application/json"),
        ),
        ("A file (CSV; Parquet and Arrow streams too)", file + curl("/predict/file", "@-", "text/csv")),
    ]


def _csv(value: Any) -> str:
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def _column(column: SignatureColumn) -> dict[str, Any]:
    kind = "number" if column.kind == "numeric" else "string"
    tree: dict[str, Any] = {"type": [kind, "null"] if column.nullable else kind, "description": hint(column)}
    if kind == "string":
        if not column.nullable:
            tree["minLength"] = 1
        if column.categories:
            tree["examples"] = list(column.categories[:EXAMPLES])
            tree["description"] += "; others are answered as unseen"
    return tree


def _answer(signature: Signature) -> dict[str, Any]:
    if signature.classes is None:
        return {"type": "object", "properties": {"prediction": {"type": "number"}}, "required": ["prediction"]}
    share = {"type": "number", "minimum": 0, "maximum": 1}
    names = [str(label) for label in signature.classes]
    properties = {
        "prediction": {"enum": list(signature.classes), "description": signature.target},
        "probability": {**share, "description": "of the class that is predicted"},
        "probabilities": {
            "type": "object",
            "properties": dict.fromkeys(names, share),
            "description": "with ?probabilities=true",
        },
    }
    return {"type": "object", "properties": properties, "required": ["prediction", "probability"]}


def _predict(predictor: Predictor, row: dict[str, Any], most: int) -> dict[str, Any]:
    records = {"type": "array", "items": _ref("Features"), "minItems": 1, "maxItems": most}
    one = {"oneOf": [_ref("Values"), _ref("Features")]}
    single = {
        "type": "object",
        "properties": {"features": one},
        "required": ["features"],
        "additionalProperties": False,
    }
    examples = {
        "named": {"value": {"features": row}},
        "listed": {"value": {"features": [*row.values()]}},
        "records": {"value": [row, row]},
    }
    content = {"schema": {"oneOf": [single, records]}, "examples": examples}
    answers = {"oneOf": [_ref("Answer"), {"type": "array", "items": _ref("Answer")}]}
    given = {"schema": answers, "example": answer_example(predictor)}
    asked = {"name": "probabilities", "in": "query", "schema": {"type": "string", "enum": ["true"]}}
    return {
        "summary": f"Predict {predictor.signature.target}",
        "description": "One row as a list or by name, or a list of rows. A list of rows gets a list of answers.",
        "operationId": "predict",
        "parameters": [{**asked, "required": False, "description": "the probability of every class as well"}],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {"200": _said("The answer.", {"application/json": given}), **_errors()},
    }


def _file() -> dict[str, Any]:
    table = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in FORMATS}
    return {
        "summary": "Score a table",
        "description": "CSV with a header, Arrow IPC stream or Parquet, of any length. The same table comes back in "
        "the same format with the columns prediction and probability_CLASS. An error that is found after the answer "
        "has begun breaks the connection before the last chunk.",
        "operationId": "predict_file",
        "requestBody": {"required": True, "content": table},
        "responses": {
            "200": _said("The table with its answers.", table),
            **_errors(),
            "406": _error("The answer has the format of the file, which `Accept` rules out."),
            "415": _error("A format that is not taken, or one that needs pyarrow where it is not installed."),
        },
    }


def _errors() -> dict[str, Any]:
    return {status: _error(text) for status, text in ERRORS.items()}


def _error(text: str) -> dict[str, Any]:
    return _said(text, {"application/json": {"schema": _ref("Error")}})


def _said(text: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": content}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _locked(tree: dict[str, Any]) -> None:
    schemes = {
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    tree.setdefault("components", {})["securitySchemes"] = schemes
    for operations in tree["paths"].values():
        if "post" in operations:
            operations["post"]["security"] = [{"key": []}, {"bearer": []}]


def _listed(tree: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (method.upper(), path, str(operation.get("description") or operation.get("summary", "")).partition("\n")[0])
        for path, operations in tree["paths"].items()
        for method, operation in operations.items()
    ]
