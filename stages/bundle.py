"""The model bundle: write it, verify it, open it. Imports nothing heavy: serving opens bundles as well.

A bundle is a folder: pipeline.skops (the fitted scikit-learn pipeline), model.onnx (the compiled graph, only where it
agrees with the pipeline), signature.json, provenance.json, check.json (rows with the scores expected), card.md.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages.errors import ModelError
from stages.files import read_json

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

    @cached_property
    def numeric(self) -> tuple[str, ...]:
        """The names of the numeric columns."""
        return tuple(column.name for column in self.columns if column.kind == "numeric")

    @cached_property
    def text(self) -> tuple[str, ...]:
        """The names of the categorical columns."""
        return tuple(column.name for column in self.columns if column.kind == "categorical")

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
class Rows:
    """n examples as arrays, each kind in the order of the signature.

    numeric: float64 [n, number of numeric columns], NaN where missing. text: str objects [n, number of categorical
    columns], "" where missing.
    """

    numeric: Array
    text: Array

    def __len__(self) -> int:
        return len(self.numeric)

    def __getitem__(self, chosen: slice) -> Rows:
        return Rows(self.numeric[chosen], self.text[chosen])

    @classmethod
    def of(cls, X: pd.DataFrame, signature: Signature) -> Rows:
        """The features of a table, whatever else is in it."""
        numeric, text = list(signature.numeric), list(signature.text)
        return cls(X[numeric].to_numpy(dtype="float64"), X[text].to_numpy(dtype="object"))

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Several under each other."""
        if len(parts) == 1:
            return parts[0]
        return cls(np.concatenate([part.numeric for part in parts]), np.concatenate([part.text for part in parts]))

    def frame(self, signature: Signature) -> pd.DataFrame:
        """As scikit-learn takes them: columns in the order of the signature."""
        import pandas as pd

        columns = dict(zip(signature.numeric, self.numeric.T, strict=True))
        columns |= dict(zip(signature.text, self.text.T, strict=True))
        kinds = dict.fromkeys(signature.numeric, "float64") | dict.fromkeys(signature.text, "object")
        return pd.DataFrame({c.name: pd.Series(columns[c.name], dtype=kinds[c.name]) for c in signature.columns})


@dataclass(frozen=True)
class Model:
    """A bundle in memory: nothing is read from its folder any more, but the pipeline where `fitted` is first asked for.

    graph is the session of the compiled graph, None where the bundle has none: then scikit-learn answers.
    """

    path: Path
    signature: Signature
    provenance: dict[str, Any]
    graph: Any

    @property
    def compiled(self) -> bool:
        return self.graph is not None

    @cached_property
    def fitted(self) -> Pipeline:
        """The scikit-learn pipeline. Raises ModelError for a type that is not trusted or a damaged file."""
        from stages.fitted import load_pipeline

        return load_pipeline(self.path / "pipeline.skops")

    def scores(self, X: pd.DataFrame) -> Array:
        """n x k: the probability of each class, or n x 1: the value; by the graph where there is one."""
        return self.scores_of(Rows.of(X, self.signature))

    def scores_of(self, rows: Rows) -> Array:
        """The same, without pandas where compiled. float64."""
        if len(rows) == 0:
            return np.empty((0, len(self.signature.classes or (0,))))
        if self.compiled:
            return run_graph(self.graph, rows)
        return sklearn_scores(self.fitted, rows.frame(self.signature))

    def predict_proba(self, X: pd.DataFrame) -> Array:
        """n x k probabilities in the order of signature.classes. Classification only."""
        if self.signature.classes is None:
            raise ModelError(f"{self.path}: a regression has no class probabilities")
        return self.scores(X)

    def predict(self, X: pd.DataFrame) -> Array:
        """n labels (the positive class iff its probability is above the threshold), or n values."""
        return decide(self.scores(X), self.signature)


def open_bundle(path: Path | str = MODEL) -> Model:
    """The bundle in a folder. Raises ModelError where its signature is missing or none, or its graph damaged."""
    folder = Path(path)
    graph = folder / "model.onnx"
    return Model(
        folder,
        Signature.read(folder / "signature.json"),
        read_json(folder / "provenance.json"),
        session(graph.read_bytes(), graph) if graph.is_file() else None,
    )


def session(graph: bytes, name: Path | str = "the graph") -> Any:
    """A compiled graph, ready to run. Raises ModelError, by its name, where it is damaged."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # more threads would add the leaves of a forest in another order
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own for a damaged graph
        raise ModelError(f"{name}: cannot be loaded ({error})") from None


def checked_rows(path: Path, signature: Signature) -> tuple[Rows, Array]:
    """The rows that a bundle carries to be tried on, and the scores that scikit-learn gave them when it was written.

    Raises ModelError where check.json does not fit the signature.
    """
    tree = read_json(path / "check.json")
    try:
        inputs, scores = tree["inputs"], np.array(tree["scores"], dtype="float64")
        columns = [[math.nan if v is None else float(v) for v in inputs[name]] for name in signature.numeric]
        words = [["" if v is None else str(v) for v in inputs[name]] for name in signature.text]
        rows = Rows(
            np.array(columns, dtype="float64").reshape(len(columns), len(scores)).T.copy(),
            np.array(words, dtype="object").reshape(len(words), len(scores)).T.copy(),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path / 'check.json'}: does not fit the signature ({error}); `dvc checkout` restores it"
        ) from None
    return rows, scores


def run_graph(graph: Any, rows: Rows) -> Array:
    """The scores of a session, float64. A graph has an input for each kind of column that there is."""
    feed = {"numeric": rows.numeric} if rows.numeric.shape[1] else {}
    if rows.text.shape[1]:
        feed["text"] = rows.text
    return np.asarray(graph.run(None, feed)[0], dtype="float64")


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


def signature_tree(signature: Signature) -> dict[str, Any]:
    """The signature as JSON holds it; columns last, each without the keys of the other kind."""
    tree = asdict(signature)
    tree["columns"] = [{k: v for k, v in c.items() if v is not None or k == "unit"} for c in tree["columns"]]
    return tree
