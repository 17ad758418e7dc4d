"""The model bundle: write it, verify it, open it. Imports nothing heavy: serving opens bundles as well.

A bundle is a folder: pipeline.skops (the fitted scikit-learn pipeline), model.onnx (the compiled graph, only where it
agrees with the pipeline), signature.json, provenance.json, check.json (rows with the scores expected), card.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages.errors import ModelError
from stages.files import read_json, replacing

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

MODEL = Path("data/model")
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SignatureColumn:
    """One feature. Numeric: min and max seen in training. Categorical: the categories seen in training."""

    name: str
    kind: str
    nullable: bool
    unit: str | None = None
    min: float | None = None
    max: float | None = None
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Signature:
    """What the model takes and gives. classes is None for regression; threshold is for binary alone."""

    task: str
    target: str
    classes: tuple[int | str, ...] | None
    threshold: float | None
    columns: tuple[SignatureColumn, ...] = field(default=())

    @classmethod
    def read(cls, path: Path) -> Signature:
        tree = read_json(path)
        try:
            columns = tuple(
                SignatureColumn(
                    **{**c, "categories": tuple(c["categories"]) if c.get("categories") is not None else None}
                )
                for c in tree.pop("columns")
            )
            classes = tree.pop("classes")
            return cls(**tree, classes=None if classes is None else tuple(classes), columns=columns)
        except (TypeError, KeyError) as error:
            raise ModelError(f"{path}: not a signature ({error}); train again with `dvc repro -f train`") from None


@dataclass(frozen=True)
class Model:
    """A bundle on disk. The pipeline and the graph are loaded when they are first asked for."""

    path: Path

    @cached_property
    def signature(self) -> Signature:
        return Signature.read(self.path / "signature.json")

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return read_json(self.path / "provenance.json")

    @property
    def compiled(self) -> bool:
        return (self.path / "model.onnx").is_file()

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # more would add the leaves of a forest in another order
        try:
            return onnxruntime.InferenceSession(
                (self.path / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises classes of its own for a damaged graph
            raise ModelError(f"{self.path / 'model.onnx'}: cannot be loaded ({error})") from None

    def pipeline(self) -> Pipeline:
        """The fitted scikit-learn pipeline. Raises ModelError for a type that is not trusted or a damaged file."""
        from stages.fitted import load_pipeline

        return load_pipeline(self.path / "pipeline.skops")

    @cached_property
    def _pipeline(self) -> Pipeline:
        return self.pipeline()

    def scores(self, X: pd.DataFrame) -> Array:
        """n x k: the probability of each class, or n x 1: the value; by the graph where there is one."""
        if not self.compiled and len(X):
            return sklearn_scores(self._pipeline, X)
        return self.scores_of(graph_inputs(X, self.signature))

    def scores_of(self, inputs: dict[str, Array]) -> Array:
        """The same from one n x 1 array a column (float64 with NaN, or str objects): no pandas where compiled."""
        rows = len(next(iter(inputs.values())))
        if rows == 0:
            return np.empty((0, len(self.signature.classes or (0,))))
        if self.compiled:
            return np.asarray(self._session.run(["scores"], inputs)[0], dtype="float64")
        import pandas as pd

        return sklearn_scores(self._pipeline, pd.DataFrame({name: column[:, 0] for name, column in inputs.items()}))

    def predict_proba(self, X: pd.DataFrame) -> Array:
        """n x k probabilities in the order of signature.classes. Classification only."""
        if self.signature.classes is None:
            raise ModelError(f"{self.path}: a regression has no class probabilities")
        return self.scores(X)

    def predict(self, X: pd.DataFrame) -> Array:
        """n labels (the positive class iff its probability is above the threshold), or n values."""
        return decide(self.scores(X), self.signature)


def open_bundle(path: Path | str = MODEL) -> Model:
    """The bundle in a folder. Raises ModelError where its signature is missing or no signature."""
    model = Model(Path(path))
    _ = model.signature
    return model


def sklearn_scores(pipeline: Pipeline, X: pd.DataFrame) -> Array:
    """The scores as scikit-learn gives them: n x k probabilities, or n x 1 values."""
    if hasattr(pipeline, "predict_proba"):
        return np.asarray(pipeline.predict_proba(X), dtype="float64")
    return np.asarray(pipeline.predict(X), dtype="float64").reshape(-1, 1)


def decide(scores: Array, signature: Signature) -> Array:
    """Labels or values from scores."""
    if signature.classes is None:
        return scores[:, 0]
    classes = np.array(signature.classes, dtype="object" if isinstance(signature.classes[0], str) else "int64")
    if signature.task == "binary":
        threshold = 0.5 if signature.threshold is None else signature.threshold
        return np.asarray(classes[(scores[:, 1] > threshold).astype(int)])
    return np.asarray(classes[scores.argmax(axis=1)])


def graph_inputs(X: pd.DataFrame, signature: Signature) -> dict[str, Array]:
    """One n x 1 tensor a column: double or string."""
    kinds = {"numeric": "float64", "categorical": "object"}
    return {c.name: X[c.name].to_numpy(dtype=kinds[c.kind]).reshape(-1, 1) for c in signature.columns}


def bundle_md5(path: Path) -> str:
    """The md5 that DVC gives a folder ("….dir"). Raises ModelError where there is none."""
    if not path.is_dir():
        raise ModelError(f"{path}: there is no such folder; run `dvc repro train`")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    entries = [{"md5": file_md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    listed = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest() + ".dir"


def file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def find_bundle(md5: str) -> Path | None:
    """The folder of the bundle with this md5: data/model, or one laid out from DVC's cache; None where neither has it.

    Every file is verified: DVC itself does not check what it reads from its cache. Raises ModelError for a damaged one.
    """
    digest = md5.removesuffix(".dir")
    if MODEL.is_dir() and bundle_md5(MODEL) == f"{digest}.dir":
        return MODEL
    target = Path("data/.bundles") / digest
    if target.is_dir() and bundle_md5(target) == f"{digest}.dir":
        return target
    listing = _cached(f"{digest}.dir")
    if listing is None:
        return None
    _verified(listing, digest)
    sources = {entry["relpath"]: (_cached(entry["md5"]), entry["md5"]) for entry in json.loads(listing.read_bytes())}
    if any(source is None for source, _ in sources.values()):
        return None
    with replacing(target) as folder:
        for relpath, (source, expected) in sources.items():
            assert source is not None
            _verified(source, expected)
            (folder / relpath).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / relpath)
    return target


def _verified(source: Path, expected: str) -> None:
    found = file_md5(source)
    if found != expected:
        raise ModelError(f"{source}: its md5 is {found}, expected {expected}; remove it and `dvc pull`")


def _cached(md5: str) -> Path | None:
    """The object in DVC's cache; in an experiment's temporary folder, in that of the real repository."""
    roots = [Path(os.environ["DVC_ROOT"])] if "DVC_ROOT" in os.environ else []
    for root in [Path(), *roots]:
        path = root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        if path.is_file():
            return path
    return None


def signature_tree(signature: Signature) -> dict[str, Any]:
    """The signature as JSON holds it; columns last, each without the keys of the other kind."""
    tree = asdict(signature)
    tree["columns"] = [{k: v for k, v in c.items() if v is not None or k == "unit"} for c in tree["columns"]]
    return tree
