"""Wire protocols: one module each, a pure codec of bytes to rows and answers to bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve.runtime import Answers
from stages.bundle import Rows, Signature
from stages.errors import PinwerkError


class BadInputError(PinwerkError):
    """What a client sent cannot be answered. The message is for the client: no paths, its values cut short.

    status: 400 for bytes that are not what the protocol calls for, 422 for values that do not fit the signature, 404
    for a model or version that is not served, 415 for a content type.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """What a codec sees of a request. Header names are in lower case; parameters are those of the path."""

    body: bytes
    headers: Mapping[bytes, bytes]
    query: bytes = b""
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decoded:
    """The rows of a request; reply is what the codec needs to know again when it encodes; id is the client's own."""

    rows: Rows
    reply: Any = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """Who answered: for the protocols that say so in the body."""

    model: str
    variant: str
    md5: str
    id: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer on the wire. headers are beside content-length, which is added."""

    body: bytes
    status: int = 200
    content_type: bytes = b"application/json"
    headers: Sequence[tuple[bytes, bytes]] = ()


class Codec(Protocol):
    """A wire protocol. Pure: no clock, no network, nothing kept between calls; safe in threads."""

    @property
    def name(self) -> str:
        """For the metrics and the log."""

    def decode(self, request: Request, signature: Signature, most: int) -> Decoded:
        """The rows of a request, at most `most`. Raises BadInputError."""

    def encode(self, answers: Answers, decoded: Decoded, signature: Signature, served: Served) -> Reply:
        """The answer. Raises BadInputError for an output that was asked for and is not there."""

    def refuse(self, status: int, message: str) -> Reply:
        """An error in the protocol's own form."""
