"""`POST /v2/models/NAME/infer`: the Open Inference Protocol of KServe, Triton and MLServer, with binary tensors."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec

from serve.protocols import BadInputError, Decoded, Reply, Request, Served, names
from serve.protocols.parsing import decoded_json
from serve.protocols.rows import few_enough, from_columns, shown
from serve.protocols.tensors import tensor, to_bytes
from serve.runtime import Answers
from stages.bundle import Array, Rows, Signature

LENGTH = b"inference-header-content-length"
LARGE = 1000  # bytes of an answer that is compressed for who takes that
FASTEST = 1  # level of compression

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Asked:
    """What the answer has to look like. outputs: whether each that is asked for is binary, by name, in their order."""

    outputs: dict[str, bool]
    id: str | None
    accepted: bytes


class V2:
    """A tensor [n] or [n, 1] for each feature, by its name; or one [n, k] with all, in the order of the signature."""

    name = "v2"

    def __init__(self, model: str) -> None:
        self._model = model

    def decode(self, request: Request, signature: Signature, most: int) -> Decoded:
        names.found(request.parameters, self._model)
        head, tail = _parted(request)
        body = decoded_json(head, nan=True)
        if not isinstance(body, dict) or not isinstance(body.get("inputs"), list):
            raise BadInputError("expected a JSON object with a list of `inputs`", status=400)
        client = body.get("id")
        if client is not None and not isinstance(client, str):
            raise BadInputError(f"`id` is {shown(client)}; expected text", status=400)
        asked = Asked(_outputs(body, signature), client, request.headers.get(b"accept-encoding", b""))
        return Decoded(_rows(_tensors(body["inputs"], tail), signature, most), asked, client)

    def encode(self, answers: Answers, decoded: Decoded, signature: Signature, served: Served) -> Reply:
        asked: Asked = decoded.reply
        outputs, parts = [], []
        for name, binary in asked.outputs.items():
            kind, width = _given(signature)[name]
            scores = name == "probabilities"
            values = list(chain.from_iterable(answers.scores)) if scores else answers.labels
            output: dict[str, Any] = {"name": name, "shape": [len(answers), *width], "datatype": kind}
            if binary:
                parts.append(to_bytes(values, kind))
                output["parameters"] = {"binary_data_size": len(parts[-1])}
            else:
                output["data"] = values
            outputs.append(output)
        said: dict[str, Any] = {"model_name": served.model, "model_version": names.VERSION}
        if asked.id is not None:
            said["id"] = asked.id
        head = _encode({**said, "outputs": outputs})
        return _packed(head, parts, asked.accepted)

    def refuse(self, status: int, message: str) -> Reply:
        return Reply(_encode({"error": message}), 400 if status == 422 else status)


def metadata(model: str, signature: Signature) -> dict[str, Any]:
    """What the model takes and gives."""
    kinds = {"numeric": "FP64", "categorical": "BYTES"}
    return {
        "name": model,
        "versions": [names.VERSION],
        "platform": "pinwerk",
        "inputs": [{"name": c.name, "datatype": kinds[c.kind], "shape": [-1]} for c in signature.columns],
        "outputs": [
            {"name": name, "datatype": kind, "shape": [-1, *width]} for name, (kind, width) in _given(signature).items()
        ],
    }


def _given(signature: Signature) -> dict[str, tuple[str, list[int]]]:
    """The datatype of each output, and its shape behind the rows."""
    if signature.classes is None:
        return {"prediction": ("FP64", [])}
    label = "BYTES" if isinstance(signature.classes[0], str) else "INT64"
    return {"prediction": (label, []), "probabilities": ("FP64", [len(signature.classes)])}


def _parted(request: Request) -> tuple[bytes, bytes]:
    """The JSON, and the bytes behind it."""
    length = request.headers.get(LENGTH)
    if length is None:
        return request.body, b""
    if not length.isdigit() or int(length[:20]) > len(request.body):
        raise BadInputError("Inference-Header-Content-Length is not within the body", status=400)
    size = int(length[:20])
    return request.body[:size], request.body[size:]


def _outputs(body: Mapping[str, Any], signature: Signature) -> dict[str, bool]:
    """Which outputs are asked for, and whether each is binary."""
    given, asked = _given(signature), body.get("outputs")
    binary = _parameter(body, "binary_data_output", False)
    if not asked and (asked is None or isinstance(asked, list)):
        return dict.fromkeys(given, binary)
    outputs: dict[str, bool] = {}
    for output in asked if isinstance(asked, list) else [asked]:
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or name not in given or name in outputs:
            raise BadInputError(
                f"there is no output {shown(output)}, or twice; there is {', '.join(given)}", status=400
            )
        if "classification" in (output.get("parameters") or ()):
            raise BadInputError("`classification` is not offered; `probabilities` has every class", status=400)
        outputs[name] = _parameter(output, "binary_data", binary)
    return outputs


def _parameter(tree: Mapping[str, Any], name: str, default: bool) -> bool:
    parameters = tree.get("parameters")
    if not isinstance(parameters, (dict, type(None))):
        raise BadInputError(f"`parameters` is {shown(parameters)}; expected an object", status=400)
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise BadInputError(f"`{name}` is {shown(value)}; expected true or false", status=400)
    return value


def _tensors(inputs: list[Any], tail: bytes) -> dict[str, Array]:
    """The tensors by name; those in binary take their bytes from the tail one after the other."""
    tensors: dict[str, Array] = {}
    place = 0
    for given in inputs:
        name = given.get("name") if isinstance(given, dict) else None
        if not isinstance(name, str) or name in tensors:
            raise BadInputError(f"the input {shown(given)} has no name, or one that was given before", status=400)
        parameters = given.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None:
            tensors[name] = tensor(given, None)
            continue
        if type(size) is not int or not 0 <= size <= len(tail) - place or "data" in given:
            said = f"`binary_data_size` of {shown(name)} is {shown(size)}; {len(tail) - place} bytes are left"
            raise BadInputError(said, status=400)
        tensors[name] = tensor(given, tail[place : place + size])
        place += size
    if place < len(tail):
        raise BadInputError(f"{len(tail) - place} bytes behind the JSON belong to no input", status=400)
    return tensors


def _rows(tensors: Mapping[str, Array], signature: Signature, most: int) -> Rows:
    columns = [column.name for column in signature.columns]
    if len(tensors) == 1:
        name, only = next(iter(tensors.items()))
        if only.ndim == 2 and (name not in columns or only.shape[1] != 1):
            few_enough(len(only), most)
            if only.shape[1] != len(columns):
                said = f"{only.shape[1]} columns; the model takes {len(columns)}: {', '.join(columns[:100])}"
                raise BadInputError(f"the tensor {shown(name)} has {said}")
            return from_columns(dict(zip(columns, only.T, strict=True)), signature, most)
    for name, values in tensors.items():
        if values.ndim == 2 and values.shape[1] != 1:
            shape = f"[{', '.join(map(str, values.shape))}]"
            raise BadInputError(f"the tensor {shown(name)} has the shape {shape}; beside others it may be [rows]")
    return from_columns({name: values.reshape(-1) for name, values in tensors.items()}, signature, most)


def _packed(head: bytes, parts: list[bytes], accepted: bytes) -> Reply:
    """The answer, compressed where the client takes that and there is enough of it."""
    headers = [(LENGTH, b"%d" % len(head))] if parts else []
    body = b"".join([head, *parts])
    if len(body) > LARGE and b"gzip" in accepted:
        body = gzip.compress(body, FASTEST, mtime=0)
        headers.append((b"content-encoding", b"gzip"))
    elif len(body) > LARGE and b"deflate" in accepted:
        body = zlib.compress(body, FASTEST)
        headers.append((b"content-encoding", b"deflate"))
    return Reply(body, 200, b"application/octet-stream" if parts else b"application/json", headers)
