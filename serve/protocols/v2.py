"""`POST /v2/models/NAME/infer`: the Open Inference Protocol (KServe, Triton, MLServer), with its binary tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import NoneType
from typing import Any

import msgspec
import numpy as np

from serve.protocols import BadInputError, Decoded, Reply, Request, Served, names
from serve.protocols.parsing import decoded_json
from serve.protocols.rows import few_enough, from_columns, shown
from serve.runtime import Answers
from stages.bundle import Array, Rows, Signature

LENGTH = b"inference-header-content-length"
DTYPES = {
    "BOOL": "u1",
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}
DATATYPES = ("BYTES", *DTYPES)
TAKEN: dict[str, set[type]] = {"BYTES": {str, NoneType}, "BOOL": {bool}}  # in JSON; the others take numbers

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Tensor:
    """What one input holds, row-major: numbers as float64, texts as they came, None where missing."""

    name: str
    rows: int
    width: int | None  # None for a shape [n]
    flat: Array | list[str | None]

    def columns(self) -> list[Array | list[str | None]]:
        """Its columns; one for a shape [n]."""
        width = self.width or 1
        return [self.flat[place::width] for place in range(width)]


class V2:
    """A tensor [n] or [n, 1] for each feature, by its name; or one [n, k] of all features in the signature's order."""

    name = "v2"

    def __init__(self, model: str) -> None:
        self._model = model

    def decode(self, request: Request, signature: Signature, most: int) -> Decoded:
        names.found(request.parameters, self._model)
        head, tail = _parted(request)
        body = decoded_json(head, nan=True)
        if not isinstance(body, dict):
            raise _bad("the request is no JSON object with `inputs`")
        id = body.get("id")
        if not isinstance(id, (str, NoneType)):
            raise _bad("`id` is no text")
        outputs = _outputs(body, signature)
        return Decoded(_rows(_tensors(body, tail, signature, most), signature, most), outputs, id)

    def encode(self, answers: Answers, decoded: Decoded, signature: Signature, served: Served) -> Reply:
        given, outputs, parts = _given(signature), [], []
        for name, binary in decoded.reply.items():
            datatype, width = given[name]
            values = answers.labels if name == "prediction" else list(chain.from_iterable(answers.scores))
            output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(answers), *width]}
            if binary:
                parts.append(_to_bytes(values, datatype))
                output["parameters"] = {"binary_data_size": len(parts[-1])}
            else:
                output["data"] = values
            outputs.append(output)
        id = served.id if decoded.id is None else decoded.id
        head = _encode({"model_name": served.model, "model_version": names.VERSION, "id": id, "outputs": outputs})
        if not parts:
            return Reply(head)
        return Reply(b"".join([head, *parts]), 200, b"application/octet-stream", ((LENGTH, b"%d" % len(head)),))

    def refuse(self, status: int, message: str) -> Reply:
        return Reply(_encode({"error": message}), 400 if status == 422 else status)


def server() -> dict[str, Any]:
    """What `GET /v2` says."""
    return {"name": "pinwerk", "version": "2", "extensions": ["binary_tensor_data"]}


def metadata(signature: Signature, name: str, versions: Sequence[str]) -> dict[str, Any]:
    """What `GET /v2/models/NAME` says: a tensor for each feature, and those that come back."""
    taken = [(column.name, "FP64" if column.kind == "numeric" else "BYTES") for column in signature.columns]
    inputs = [{"name": feature, "datatype": datatype, "shape": [-1]} for feature, datatype in taken]
    given = _given(signature).items()
    outputs = [{"name": output, "datatype": datatype, "shape": [-1, *width]} for output, (datatype, width) in given]
    return {"name": name, "versions": list(versions), "platform": "pinwerk", "inputs": inputs, "outputs": outputs}


def _given(signature: Signature) -> dict[str, tuple[str, list[int]]]:
    """The outputs of a model: the datatype, and the shape of one row."""
    if signature.classes is None:
        return {"prediction": ("FP64", [])}
    label = "BYTES" if isinstance(signature.classes[0], str) else "INT64"
    return {"prediction": (label, []), "probabilities": ("FP64", [len(signature.classes)])}


def _parted(request: Request) -> tuple[bytes, bytes]:
    """The JSON of a body, and the tensors behind it."""
    length = request.headers.get(LENGTH)
    if length is None:
        return request.body, b""
    if not length.isdigit() or len(length) > 18 or int(length) > len(request.body):
        raise _bad(f"Inference-Header-Content-Length is no length within the {len(request.body)} bytes of the body")
    return request.body[: int(length)], request.body[int(length) :]


def _outputs(body: Mapping[str, Any], signature: Signature) -> dict[str, bool]:
    """The outputs to give, in the order they are asked for, and whether each is binary."""
    given, asked = _given(signature), body.get("outputs")
    binary = _flag(_parameters(body, "the request"), "binary_data_output", False)
    if not isinstance(asked, (list, NoneType)):
        raise _bad("`outputs` is no list")
    outputs: dict[str, bool] = {}
    for number, output in enumerate(asked or [{"name": name} for name in given]):
        name = _name(output, f"output {number}")
        if name not in given or name in outputs:
            said = "is asked for twice" if name in outputs else f"does not exist; there is {', '.join(given)}"
            raise _bad(f"the output {shown(name)} {said}")
        parameters = _parameters(output, f"the output {name}")
        if parameters.get("classification"):
            raise _bad("`classification` is not offered; the output probabilities has every class")
        outputs[name] = _flag(parameters, "binary_data", binary)
    return outputs


def _name(given: Any, what: str) -> str:
    name = given.get("name") if isinstance(given, dict) else None
    if not isinstance(name, str):
        raise _bad(f"{what} is no object with a `name`")
    return name


def _parameters(given: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    parameters = given.get("parameters")
    if not isinstance(parameters, (dict, NoneType)):
        raise _bad(f"the `parameters` of {what} are no object")
    return parameters or {}


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise _bad(f"`{name}` is neither true nor false")
    return value


def _tensors(body: Mapping[str, Any], tail: bytes, signature: Signature, most: int) -> list[Tensor]:
    """The inputs; those that are binary take their bytes from the tail one after the other."""
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise _bad("`inputs` is no list of tensors")
    tensors: list[Tensor] = []
    seen: set[str] = set()
    place = 0
    for number, given in enumerate(inputs):
        name = _name(given, f"input {number}")
        if name in seen:
            raise _bad(f"the input {shown(name)} is given twice")
        seen.add(name)
        what = f"the input {shown(name)}"
        size = _parameters(given, what).get("binary_data_size")
        raw = None
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(tail) - place or given.get("data") is not None:
                left = f"a size within the {len(tail) - place} bytes that are left, and no `data`"
                raise _bad(f"`binary_data_size` of {what} does not fit; expected {left}")
            raw = tail[place : place + size]
            place += size
        tensors.append(_tensor(name, what, given, raw, len(signature.columns), most))
    if place < len(tail):
        raise _bad(f"{len(tail) - place} bytes behind the JSON belong to no input")
    return tensors


def _tensor(name: str, what: str, given: Mapping[str, Any], raw: bytes | None, features: int, most: int) -> Tensor:
    datatype, shape = given.get("datatype"), given.get("shape")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise _bad(f"the datatype of {what} is none of {', '.join(DATATYPES)}")
    if not isinstance(shape, list) or len(shape) not in (1, 2) or any(type(n) is not int or n < 0 for n in shape):
        raise _bad(f"the shape of {what} is not [rows], [rows, 1] or [rows, {features}]")
    rows, width = shape[0], shape[1] if len(shape) == 2 else None
    if width not in (None, 1, features):
        raise _bad(f"{what} has rows of {width}; expected 1, or the {features} features of the model")
    few_enough(min(rows, 10**15), most)
    count = rows * (width or 1)
    if raw is None:
        flat = _from_json(what, _flat(what, given.get("data"), width), datatype, count)
    else:
        flat = _texts(what, raw, count) if datatype == "BYTES" else _from_bytes(what, raw, datatype, count)
    return Tensor(name, rows, width, flat)


def _flat(what: str, data: Any, width: int | None) -> list[Any]:
    """Row-major data, given flat or as a list of rows."""
    if not isinstance(data, list):
        raise _bad(f"{what} has neither a list `data` nor a `binary_data_size`")
    if width is None or not data or not isinstance(data[0], list):
        return data
    if any(not isinstance(row, list) or len(row) != width for row in data):
        raise _bad(f"the rows of {what} are not all lists of {width}")
    return list(chain.from_iterable(data))


def _from_json(what: str, flat: list[Any], datatype: str, count: int) -> Array | list[str | None]:
    if len(flat) != count:
        raise _bad(f"{what} has {len(flat)} values where its shape calls for {count}")
    allowed = TAKEN.get(datatype, {int, float, NoneType} if datatype.startswith("FP") else {int})
    if not set(map(type, flat)) <= allowed:
        place = next(place for place, value in enumerate(flat) if type(value) not in allowed)
        raise _bad(f"value {place} of {what} is no {datatype}")
    if datatype == "BYTES":
        return flat
    try:
        with np.errstate(all="ignore"):  # what is too large becomes an infinity, which is refused as such
            return np.array(flat, dtype=DTYPES[datatype]).astype("float64")
    except OverflowError:
        raise _bad(f"{what} holds a number beyond {datatype}") from None


def _from_bytes(what: str, raw: bytes, datatype: str, count: int) -> Array:
    width = np.dtype(DTYPES[datatype]).itemsize
    if len(raw) != count * width:
        raise _bad(f"{what} has {len(raw)} bytes where its shape calls for {count} values of {width}")
    values = np.frombuffer(raw, dtype=DTYPES[datatype])
    if datatype == "BOOL" and (values > 1).any():
        raise _bad(f"{what} holds a byte that is no BOOL: neither 0 nor 1")
    with np.errstate(all="ignore"):  # a signalling NaN
        return values.astype("float64")


def _texts(what: str, raw: bytes, count: int) -> list[str | None]:
    """Texts in UTF-8, each behind its length in four bytes."""
    texts: list[str | None] = []
    place = 0
    while place < len(raw) and len(texts) < count:
        start = place + 4
        place = start + int.from_bytes(raw[place:start], "little")
        if max(start, place) > len(raw):
            raise _bad(f"{what} ends within its value {len(texts)}")
        try:
            texts.append(raw[start:place].decode())
        except UnicodeDecodeError:
            raise _bad(f"value {len(texts)} of {what} is not UTF-8") from None
    if len(texts) != count or place < len(raw):
        raise _bad(f"{what} does not have the {count} values that its shape calls for")
    return texts


def _rows(tensors: list[Tensor], signature: Signature, most: int) -> Rows:
    features = [column.name for column in signature.columns]
    first = tensors[0]
    if len(tensors) == 1 and first.width == len(features) and first.name not in features:
        return _matrix(first, signature, most)
    for tensor in tensors:
        if tensor.width not in (None, 1):
            said = "a matrix of all features stands alone, under a name that is no feature's"
            raise _bad(f"the input {shown(tensor.name)} is [rows, {tensor.width}]; {said}")
    return from_columns({tensor.name: tensor.columns()[0] for tensor in tensors}, signature, most)


def _matrix(tensor: Tensor, signature: Signature, most: int) -> Rows:
    flat = tensor.flat
    if isinstance(flat, np.ndarray) and not signature.text and np.isfinite(flat).all():
        return Rows(flat.reshape(tensor.rows, -1), np.empty((tensor.rows, 0), dtype="object"))
    columns: dict[str, Any] = {}
    for column, values in zip(signature.columns, tensor.columns(), strict=True):
        numbers_as_text = column.kind == "numeric" and isinstance(values, list)
        columns[column.name] = [_number(value) for value in values] if numbers_as_text else values
    return from_columns(columns, signature, most)


def _number(text: str | None) -> float | str | None:
    """The number that a text says; a text that says none as it is, to be refused by name."""
    if text is None or not text.isascii() or "_" in text:  # Python's own notation
        return text
    try:
        return float(text)
    except ValueError:
        return text


def _to_bytes(values: Sequence[Any], datatype: str) -> bytes:
    if datatype != "BYTES":
        return np.array(values, dtype=DTYPES[datatype]).tobytes()
    return b"".join(len(text).to_bytes(4, "little") + text for text in (str(value).encode() for value in values))


def _bad(message: str) -> BadInputError:
    return BadInputError(message, status=400)
