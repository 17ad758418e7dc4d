"""LitServe, with scikit-learn or (BENCH_ONNX) with the compiled graph."""

import os
from typing import Any

import litserve
import numpy as np


class Forest(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        if "BENCH_ONNX" in os.environ:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(os.environ["BENCH_ONNX"], options)
            self.scores = lambda rows: session.run(None, {"numeric": rows})[0]
        else:
            import joblib

            self.scores = joblib.load(os.environ["BENCH_MODEL"]).predict_proba

    def decode_request(self, request):  # type: ignore  # LitServe reads annotations; without one it is the JSON
        return np.array(request["features"]).reshape(1, -1)

    def predict(self, x: Any) -> Any:
        return self.scores(x)[0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"prediction": int(output.argmax()), "probability": float(output.max())}


if __name__ == "__main__":
    server = litserve.LitServer(Forest(), accelerator="cpu", workers_per_device=1)
    server.run(port=int(os.environ["BENCH_PORT"]), generate_client_file=False, log_level="error")
