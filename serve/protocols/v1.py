"""`POST /v1/models/NAME:predict`, as TensorFlow Serving, KServe V1 and Vertex AI answer it."""

from __future__ import annotations

from typing import Any

import msgspec

from serve.protocols import BadInputError, Decoded, Reply, Request, Served, names
from serve.protocols.parsing import decoded_json
from serve.protocols.rows import shown
from serve.protocols.tables import from_inputs, from_instances
from serve.runtime import Answers
from stages.bundle import Signature

SIGNATURE = "serving_default"

_encode = msgspec.json.Encoder().encode


class V1:
    """instances → predictions row by row, inputs → outputs by column. Outputs are `prediction` and, for classes,
    `probabilities`; a single output stands without its name, as TensorFlow Serving has it.
    """

    name = "v1"

    def __init__(self, model: str) -> None:
        self._model = model

    def decode(self, request: Request, signature: Signature, most: int) -> Decoded:
        names.found(request.parameters, self._model)
        body = decoded_json(request.body, nan=True)
        if not isinstance(body, dict) or ("instances" in body) == ("inputs" in body):
            raise BadInputError("expected a JSON object with either `instances` or `inputs`", status=400)
        if body.get("signature_name", SIGNATURE) not in (SIGNATURE, ""):
            raise BadInputError(f"there is no signature {shown(body['signature_name'])}, only {SIGNATURE}", status=400)
        if "instances" in body:
            return Decoded(from_instances(body["instances"], signature, most), False)
        return Decoded(from_inputs(body["inputs"], signature, most), True)

    def encode(self, answers: Answers, decoded: Decoded, signature: Signature, served: Served) -> Reply:  # noqa: ARG002
        key = "outputs" if decoded.reply else "predictions"
        if signature.classes is None:
            return Reply(_encode({key: answers.labels}))
        if decoded.reply:
            return Reply(_encode({key: {"prediction": answers.labels, "probabilities": answers.scores}}))
        pairs = zip(answers.labels, answers.scores, strict=True)
        return Reply(_encode({key: [{"prediction": label, "probabilities": scores} for label, scores in pairs]}))

    def refuse(self, status: int, message: str) -> Reply:
        return Reply(_encode({"error": message}), 400 if status == 422 else status)


def state(model: str, ready: bool) -> dict[str, Any]:
    """The state of the model in the words of TensorFlow Serving and of KServe."""
    status = {"error_code": "OK", "error_message": ""}
    version = {"version": names.VERSION, "state": "AVAILABLE" if ready else "LOADING", "status": status}
    return {"model_version_status": [version], "name": model, "ready": ready}


def metadata(model: str, signature: Signature) -> dict[str, Any]:
    """What the model takes and gives, as TensorFlow Serving tells it."""
    kinds = {"numeric": "DT_DOUBLE", "categorical": "DT_STRING"}
    classes = signature.classes
    label = "DT_DOUBLE" if classes is None else "DT_STRING" if isinstance(classes[0], str) else "DT_INT64"
    outputs = {"prediction": _tensor("prediction", label, -1)}
    if classes is not None:
        outputs["probabilities"] = _tensor("probabilities", "DT_DOUBLE", -1, len(classes))
    default = {
        "inputs": {column.name: _tensor(column.name, kinds[column.kind], -1) for column in signature.columns},
        "outputs": outputs,
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": model, "signature_name": "", "version": names.VERSION},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: default}}},
    }


def _tensor(name: str, kind: str, *shape: int) -> dict[str, Any]:
    dimensions = [{"size": str(size), "name": ""} for size in shape]
    return {"dtype": kind, "tensor_shape": {"dim": dimensions, "unknown_rank": False}, "name": f"{name}:0"}
