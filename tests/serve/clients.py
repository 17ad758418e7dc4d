"""Stock clients of the Open Inference Protocol and of KServe V1, run by the environment that has them: `.clients`.

`python clients.py URL MODEL < ROWS`, ROWS a JSON list of {name: number or text}, null where missing. Prints a JSON
object: for each way to ask, the labels and the scores that came back.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as triton
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

Rows = list[dict[str, Any]]


def tensors(rows: Rows) -> dict[str, Any]:
    """A column each: float64 or, for texts, objects; NaN and "" where missing."""
    made = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if any(isinstance(value, str) for value in values):
            made[name] = np.array([value or "" for value in values], dtype="object")
        else:
            made[name] = np.array(values, dtype="float64")
    return made


def by_triton(url: str, model: str, rows: Rows) -> dict[str, Any]:
    said: dict[str, Any] = {}
    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        said["live"], said["ready"] = client.is_server_live(), client.is_server_ready()
        said["model ready"] = [client.is_model_ready(model), client.is_model_ready(model, "1")]
        said["another ready"] = client.is_model_ready("another")
        metadata = client.get_model_metadata(model)
        said["inputs"] = [tensor["name"] for tensor in metadata["inputs"]]
        said["server"] = client.get_server_metadata()["extensions"]
        kinds = {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]}
        for binary in (True, False):
            inputs = []
            for name, values in tensors(rows).items():
                inputs.append(triton.InferInput(name, list(values.shape), kinds[name]))
                inputs[-1].set_data_from_numpy(values, binary_data=binary)
            for packed in (None, "gzip", "deflate"):
                way = f"{'binary' if binary else 'json'} {packed}"
                packing = {"request_compression_algorithm": packed, "response_compression_algorithm": packed}
                answer = client.infer(model, inputs, request_id="7", **packing)
                assert answer.get_response()["id"] == "7"
                said[way] = plain(answer.as_numpy("prediction"), answer.as_numpy("probabilities"))
        wanted = [triton.InferRequestedOutput("probabilities", binary_data=False)]
        answer = client.infer(model, inputs, outputs=wanted)
        said["one output"] = [output["name"] for output in answer.get_response()["outputs"]]
        try:
            client.infer("another", inputs)
        except triton.InferenceServerException as error:
            said["another"] = [error.status(), error.message()]
    return said


async def by_kserve(url: str, model: str, rows: Rows) -> dict[str, Any]:
    said: dict[str, Any] = {}
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        said["v1 ready"] = await client.is_model_ready(url, model)
        answer = await client.infer(url, {"instances": rows}, model_name=model)
        told = answer["predictions"]
        said["v1"] = [[row["prediction"] for row in told], [row["probabilities"] for row in told]]
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        said["v2 live"] = [await client.is_server_live(url), await client.is_server_ready(url)]
        said["v2 ready"] = await client.is_model_ready(url, model)
        for binary in (True, False):
            inputs = []
            for name, values in tensors(rows).items():
                inputs.append(InferInput(name, list(values.shape), "BYTES" if values.dtype == object else "FP64"))
                inputs[-1].set_data_from_numpy(values, binary_data=binary)
            request = InferRequest(model_name=model, infer_inputs=inputs, request_id="8")
            answer = await client.infer(url, request, model_name=model)
            labels, scores = answer.get_output_by_name("prediction"), answer.get_output_by_name("probabilities")
            said[f"v2 {'binary' if binary else 'json'}"] = plain(labels.as_numpy(), scores.as_numpy())
    return said


def plain(labels: Any, scores: Any) -> list[Any]:
    return [[label.decode() if isinstance(label, bytes) else label for label in labels.tolist()], scores.tolist()]


if __name__ == "__main__":
    address, name = sys.argv[1:]
    table = json.load(sys.stdin)
    triton_said = by_triton(address, name, table)
    json.dump({"triton": triton_said, "kserve": asyncio.run(by_kserve(address, name, table))}, sys.stdout)
