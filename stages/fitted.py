"""The file of a fitted pipeline: skops, the same bytes for the same parameters, and no type that is not trusted."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from inspect import isclass, isfunction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import ModelError
from stages.files import read_json
from stages.versions import differing, versions

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

# What a pipeline file may hold beyond skops' own list. It lives in code: a list in the file would be no defence.
# A name is trusted by what it is, never by its prefix alone: sklearn.utils._testing.check_output is subprocess's, and
# a file may have any trusted name called with any arguments.
TRUSTED_MODULES = ("sklearn.", "lightgbm.", "xgboost.")
TRUSTED_FUNCTIONS = ("sklearn.feature_selection.", "sklearn.metrics.")  # they compute on arrays, and nothing else
TRUSTED_CLASSES = (  # modules of numbers only, whose classes are no estimators
    "sklearn.gaussian_process.kernels",
    "sklearn.metrics._dist_metrics",
    "sklearn.neighbors._ball_tree",
    "sklearn.neighbors._kd_tree",
)
TRUSTED_TYPES = (
    "builtins.bytearray",
    "collections.OrderedDict",
    "collections.defaultdict",
    "functools.partial",
    "lightgbm.basic.Booster",
    "numpy.dtype",
    "scipy._lib.array_api_compat.numpy._aliases.asarray",
    "scipy.interpolate._bsplines.BSpline",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "xgboost.core.Booster",
)

ORIGIN = "provenance.json"
OPENING = (  # what answers from the file, where the file names the module
    (b'"sklearn.', "scikit-learn"),
    (b'"numpy', "numpy"),
    (b'"lightgbm.', "lightgbm"),
    (b'"xgboost.', "xgboost-cpu"),
    (b'"xgboost.', "xgboost"),
)


def trusted(name: str) -> bool:
    """Whether a file may name this type: one listed, an estimator of a trusted library, or a function that computes."""
    if name in TRUSTED_TYPES:
        return True
    if not name.startswith((*TRUSTED_MODULES, *TRUSTED_FUNCTIONS)):
        return False
    from sklearn.base import BaseEstimator

    module, _, own = name.rpartition(".")
    try:
        found = getattr(import_module(module), own, None)
    except ImportError:
        return False
    if getattr(found, "__module__", None) != module:  # imported there from elsewhere
        return False
    if isclass(found):
        return module in TRUSTED_CLASSES or issubclass(found, BaseEstimator)
    return isfunction(found) and name.startswith(TRUSTED_FUNCTIONS)


def load_pipeline(path: Path) -> Pipeline:
    """Read a skops file, refusing every type that is not trusted. Raises ModelError.

    Warns where the bundle beside it was made with other versions of what the pipeline is made of.
    """
    import skops.io as sio
    from sklearn.exceptions import InconsistentVersionWarning

    try:
        found = sio.get_untrusted_types(file=path)
        strange = [name for name in found if not trusted(name)]
        if strange:
            raise ModelError(f"{path}: holds types that are not trusted: {', '.join(strange)}; it is not loaded")
        with warnings.catch_warnings():
            if path.with_name(ORIGIN).is_file():  # then it is said below, once, and not for each tree
                warnings.simplefilter("ignore", InconsistentVersionWarning)
            pipeline = sio.load(path, trusted=found)
    except ModelError:
        raise
    except Exception as error:  # zip, JSON and numpy errors of a damaged file
        raise ModelError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); `dvc checkout` restores it"
        ) from None
    _warn_of_other_versions(path)
    return pipeline


def _warn_of_other_versions(path: Path) -> None:
    origin = path.with_name(ORIGIN)
    if not origin.is_file():
        return
    made, here = read_json(origin).get("libraries", {}), versions()
    with zipfile.ZipFile(path) as file:
        schema = file.read("schema.json")
    used = [name for module, name in OPENING if module in schema and name in made and name in here]
    apart = differing({name: made[name] for name in used}, {name: here[name] for name in used})
    if apart:
        warnings.warn(f"{path}: made with {apart}; its answers may not be those that were tested", stacklevel=3)


def dump_pipeline(pipeline: Pipeline, path: Path) -> None:
    """Write a skops file with the same bytes for the same fitted parameters (entries in order, no dates)."""
    import skops.io as sio

    draft = path.with_suffix(".draft")
    sio.dump(pipeline, draft)
    with zipfile.ZipFile(draft) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as target:
        names, renamed = source.namelist(), _stable_names(source)
        for name in sorted(names, key=lambda n: renamed.get(n, n)):
            info = zipfile.ZipInfo(renamed.get(name, name), (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            payload = source.read(name)
            target.writestr(info, _stable_schema(payload, renamed) if name == "schema.json" else payload)
    draft.unlink()


def _stable_names(source: Any) -> dict[str, str]:
    """skops names arrays by their address in memory; here by the order in which the schema first mentions them."""
    order: dict[str, None] = {}
    for node in _nodes(json.loads(source.read("schema.json"))):
        if "file" in node:
            order.setdefault(node["file"])
    return {name: f"{number}{Path(name).suffix}" for number, name in enumerate(order)}


def _stable_schema(payload: bytes, renamed: Mapping[str, str]) -> bytes:
    schema = json.loads(payload)
    identities: dict[int, int] = {}
    for node in _nodes(schema):
        if "file" in node:
            node["file"] = renamed[node["file"]]
        if "__id__" in node:
            node["__id__"] = identities.setdefault(node["__id__"], len(identities))
    return json.dumps(schema, separators=(",", ":")).encode()


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)
