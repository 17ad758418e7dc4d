"""What every protocol's tests do: a request's bytes to an answer's, through a codec and a model, without a server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from serve.protocols import BadInputError, Codec, Reply, Request, Served
from serve.runtime import Predictor

MODEL = "pinwerk"
MOST = 100  # rows


@dataclass(frozen=True)
class Speaker:
    """A codec before a model."""

    codec: Codec
    predictor: Predictor

    def reply(self, body: Any, query: bytes = b"", parameters: dict[str, str] | None = None, **headers: str) -> Reply:
        """The reply to a body, JSON unless it is bytes. Header names have underscores for hyphens."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        signature = self.predictor.signature
        try:
            decoded = self.codec.decode(Request(data, named, query, parameters or {}), signature, MOST)
            served = Served(MODEL, "champion", self.predictor.md5, "1")
            return self.codec.encode(self.predictor.answers(decoded.rows), decoded, signature, served)
        except BadInputError as error:
            return self.codec.refuse(error.status, str(error))

    def ask(self, body: Any, query: bytes = b"", parameters: dict[str, str] | None = None, **headers: str) -> Any:
        """The JSON of an answer, which must be one."""
        reply = self.reply(body, query, parameters, **headers)
        assert reply.status == 200, reply.body
        return json.loads(reply.body)

    def refusal(
        self, body: Any, query: bytes = b"", parameters: dict[str, str] | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Status and JSON of a refusal, which it must be."""
        reply = self.reply(body, query, parameters, **headers)
        assert 400 <= reply.status < 500, reply
        return reply.status, json.loads(reply.body)
