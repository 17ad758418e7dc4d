"""`POST /predictions/NAME[/VERSION]`, as TorchServe answers it: the forms of /predict, and bare lists."""

from __future__ import annotations

from typing import Any

import msgspec

from serve.protocols import Decoded, Reply, Request, names
from serve.protocols.native import Native, records_of
from serve.protocols.parsing import decoded_json
from serve.protocols.rows import from_records
from stages.bundle import Signature

KINDS = {
    401: "InvalidKeyException",
    404: "ModelNotFoundException",
    413: "RequestEntityTooLargeException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}

_encode = msgspec.json.Encoder().encode


class TorchServe(Native):
    """Answers like /predict; errors are {"code", "type", "message"}."""

    name = "torchserve"

    def __init__(self, model: str) -> None:
        self._model = model

    def decode(self, request: Request, signature: Signature, most: int) -> Decoded:
        names.found(request.parameters, self._model)
        asked = bool(request.query) and b"probabilities=true" in request.query.split(b"&")
        records, single = _records(decoded_json(request.body))
        return Decoded(from_records(records, signature, most), (single, asked))

    def refuse(self, status: int, message: str) -> Reply:
        status = 400 if status == 422 else status
        return Reply(
            _encode({"code": status, "type": KINDS.get(status, "BadRequestException"), "message": message}), status
        )


def _records(body: Any) -> tuple[list[Any], bool]:
    """The rows of a body, and whether it is a single one."""
    if isinstance(body, list) and body and not isinstance(body[0], dict):
        return (body, False) if isinstance(body[0], list) else ([body], True)
    if isinstance(body, dict) and [*body] != ["features"]:
        return [body], True
    return records_of(body)
