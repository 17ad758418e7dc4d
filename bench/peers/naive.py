"""The tutorial's app: joblib, a pydantic model, `predict` and `predict_proba` in a handler."""

from __future__ import annotations

import os

import joblib
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
model = joblib.load(os.environ["BENCH_MODEL"])


class Features(BaseModel):
    features: list[float]


@app.post("/predict")
def predict(body: Features) -> dict[str, float]:
    row = np.array(body.features).reshape(1, -1)
    return {"prediction": int(model.predict(row)[0]), "probability": float(model.predict_proba(row).max())}
