"""BentoML, with scikit-learn or (BENCH_ONNX) the compiled graph; its adaptive batching where BENCH_BATCH is set."""

from __future__ import annotations

import os
from typing import Any

import bentoml
import numpy as np

BATCH = "BENCH_BATCH" in os.environ


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Forest:
    def __init__(self) -> None:
        if "BENCH_ONNX" in os.environ:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(os.environ["BENCH_ONNX"], options)
            self.scores: Any = lambda rows: session.run(None, {"numeric": rows})[0]
        else:
            import joblib

            self.scores = joblib.load(os.environ["BENCH_MODEL"]).predict_proba

    @bentoml.api(batchable=BATCH)
    def predict(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(self.scores(np.atleast_2d(features)))
