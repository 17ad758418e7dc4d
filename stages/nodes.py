"""Nodes of conf/ (`_target_` and arguments): check them before anything runs, and build them with Hydra.

conf/ says what, it is no program: a node is an object that computes on arrays, or it is refused (docs/adr/0001). So a
name is allowed for what it names, never for its prefix alone: sklearn.utils._testing.check_output is subprocess's.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from stages.config import Node, Task, nearest, several
from stages.errors import ConfigError

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

PASSED = (  # handed to make_scorer with `_partial_: true`; an estimator that held such a one could not be read back
    "sklearn.metrics.fbeta_score",
    "sklearn.metrics.mean_pinball_loss",
    "sklearn.metrics.mean_tweedie_deviance",
)
CALLED = ("sklearn.metrics.make_scorer",)
NO_LIBRARY = {"conf", "data", "test", *sys.stdlib_module_names}
"""Of these no module is imported, whatever train.targets says: a Python file in conf/ would run."""

_OWN_KEYS = {"_target_", "_args_", "_partial_", "_convert_", "_recursive_"}
_PUBLIC = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)


def build(node: Node, targets: Sequence[str]) -> Any:
    """The object that a node describes. Raises ConfigError for a `_target_` that may not be used."""
    from hydra.utils import instantiate

    said = [*_hidden("node", node), *_caches("node", node)]
    for path, inner in walk(node, ("node",)):
        found = _located(inner, targets)
        said += [f"{'.'.join(path)}.{found}"] if isinstance(found, str) else []
    if said:
        raise ConfigError(several(said))
    return instantiate(node, _convert_="all")


def build_pipeline(features: Node, model: Node, targets: Sequence[str]) -> Pipeline:
    """`Pipeline([("features", …), ("model", …)])`, unfitted. Transformers of no column are left out."""
    from sklearn.pipeline import Pipeline

    if "transformers" in features:
        kept = [tuple(entry) for entry in build_all(features["transformers"], targets) if len(entry[2]) > 0]
        rest = {key: value for key, value in features.items() if key != "transformers"}
        return Pipeline(
            [("features", build({**rest, "transformers": kept}, targets)), ("model", build(model, targets))]
        )
    return Pipeline([("features", build(features, targets)), ("model", build(model, targets))])


def build_all(entries: Sequence[Any], targets: Sequence[str]) -> list[list[Any]]:
    """[name, node or word, columns] entries with their nodes built."""
    return [
        [name, build(what, targets) if isinstance(what, dict) else what, columns] for name, what, columns in entries
    ]


def walk(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Node]]:
    """Every node with a `_target_` in a tree, and where it is."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from walk(value, (*path, str(key)))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from walk(value, (*path, str(index)))


def problems(group: str, tree: Any, targets: Sequence[str]) -> list[str]:
    """What is wrong with the nodes of a config group, a sentence each; nothing is fitted."""
    found = [*_hidden(group, tree), *_caches(group, tree)]
    for path, node in walk(tree, (group,)):
        where = ".".join(path)
        kind = _located(node, targets)
        if isinstance(kind, str):
            found.append(f"{where}.{kind}")
            continue
        found += [f"{where}.{problem}" for problem in _argument_problems(kind, node)]
    return found


def task_problem(model: Node, task: Task, targets: Sequence[str]) -> str | None:
    """Why the estimator does not fit the task (a classifier for a regression, or the other way)."""
    from sklearn.base import is_classifier, is_regressor

    estimator = build(model, targets)
    fits = is_regressor(estimator) if task.estimator == "Regressor" else is_classifier(estimator)
    if fits:
        return None
    kind = "regressor" if task.estimator == "Regressor" else "classifier"
    other = "ridge" if task.estimator == "Regressor" else "logistic_regression"
    return f"model._target_: {model['_target_']} is no {kind}, and data.task is {task.name}; try model={other}"


def _hidden(path: str, tree: Any) -> list[str]:
    """Interpolations left over. Hydra would resolve them, and `${oc.create:…}` can hold any `_target_`."""
    if isinstance(tree, dict):
        return [said for key, value in tree.items() for said in _hidden(f"{path}.{key}", value)]
    if isinstance(tree, (list, tuple)):
        return [said for index, value in enumerate(tree) for said in _hidden(f"{path}.{index}", value)]
    if isinstance(tree, str) and "${" in tree:
        return [f"{path}: {tree!r} is still an interpolation; write the value"]
    return []


def _caches(path: str, tree: Any) -> list[str]:
    """Folders of joblib's cache, also among the values of a search: it holds pickles, and a pickle can run anything."""
    if isinstance(tree, dict):
        said = [
            f"{path}.{key}: a cache is read as pickles, which can run commands; leave it null"
            for key, value in tree.items()
            if str(key).rpartition("__")[2] == "memory" and value is not None
        ]
        return said + [line for key, value in tree.items() for line in _caches(f"{path}.{key}", value)]
    if isinstance(tree, (list, tuple)):
        return [line for index, value in enumerate(tree) for line in _caches(f"{path}.{index}", value)]
    return []


def _located(node: Node, targets: Sequence[str]) -> Any:
    """What a node's `_target_` names, or the key and a sentence why that may not be used.

    Only an attribute of a module counts, and both its name and the module that defines it must be allowed: otherwise
    `sklearn.datasets._base.os.system` would reach out of scikit-learn through what that imports.
    """
    target = node["_target_"]
    kind = _named(target, targets)
    if isinstance(kind, str):
        return f"_target_: {kind}"
    partial = node.get("_partial_", False)
    if target in PASSED:
        return kind if partial is True else f"_partial_: {target} is handed on, not called; say `_partial_: true`"
    if not (_builds(kind) or target in CALLED):
        return (
            f"_target_: {target!r} is no estimator, transformer, splitter, kernel or distribution, nor one of "
            f"{', '.join((*CALLED, *PASSED))}; conf/ can build nothing else"
        )
    return f"_partial_: {target} is built, not handed on; leave it out" if partial is not False else kind


def _named(target: object, targets: Sequence[str]) -> Any:
    """The attribute of a module, or a sentence why there is none that may be looked at."""
    if not isinstance(target, str) or not _allowed(target, targets):
        return f"{target!r} is outside {_allowed_are(targets)}"
    if not _PUBLIC.fullmatch(target):
        return f"{target!r} is no public name, MODULE.CLASS with no part that begins with `_`"
    module, _, name = target.rpartition(".")
    if module.partition(".")[0] in NO_LIBRARY:
        return f"{target!r} is in no library of estimators; Python's own modules, conf/ and data/ have none"
    try:
        found = import_module(module)
        kind = getattr(found, name, None)
    except Exception as error:  # whatever a module of one's own raises when it is imported
        return f"{target!r} cannot be imported ({error})"
    if kind is None:
        return f"{module} has no {name!r}{nearest(name, vars(found))}"
    home = str(getattr(kind, "__module__", None) or type(kind).__module__)
    return kind if _allowed(home, targets) else f"{target!r} comes from {home}, outside {_allowed_are(targets)}"


def _builds(kind: Any) -> bool:
    """Whether a call of it makes an object and does nothing else."""
    if not inspect.isclass(kind):
        from scipy.stats import rv_continuous, rv_discrete

        return isinstance(kind, (rv_continuous, rv_discrete))
    from sklearn.base import BaseEstimator

    splits = all(inspect.isfunction(getattr(kind, method, None)) for method in ("split", "get_n_splits"))
    return splits or issubclass(kind, BaseEstimator) or _is_kernel(kind)


def _is_kernel(kind: type) -> bool:
    if not kind.__module__.startswith("sklearn.gaussian_process."):
        return False
    from sklearn.gaussian_process.kernels import Kernel

    return issubclass(kind, Kernel)


def _allowed(name: str, targets: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in targets)


def _allowed_are(targets: Sequence[str]) -> str:
    return f"the allowed modules ({', '.join(targets)}); add its module to train.targets in conf/train"


def _argument_problems(kind: Any, node: Node) -> list[str]:
    given = {key: value for key, value in node.items() if key not in _OWN_KEYS}
    names, open_ended = _parameters(kind)
    found = []
    for key in given:
        close = nearest(key, names)
        if key not in names and (close or not open_ended):  # **kwargs may take more, but hardly a near miss
            allowed = "" if open_ended else f"; allowed are {', '.join(names)}"
            found.append(f"{key}: {kind.__name__} has no such parameter{close}{allowed}")
    return found or _value_problems(kind, given)


def _parameters(kind: Any) -> tuple[list[str], bool]:
    """Names of what the callable takes, and whether it takes any other; **kwargs of a class go on to its bases."""
    calls = (
        [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)]
        if inspect.isclass(kind)
        else [kind]
    )
    names: dict[str, None] = {}
    open_ended = False
    for one in calls:
        parameters = inspect.signature(one).parameters.values()
        names.update(dict.fromkeys(p.name for p in parameters if p.kind in _NAMED and p.name != "self"))
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
        open_ended = True
    return list(names), open_ended


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _value_problems(kind: Any, given: Node) -> list[str]:
    """scikit-learn's own check of each parameter's type and range, where the class has one."""
    constraints = getattr(kind, "_parameter_constraints", None)
    if not constraints:
        return []
    from sklearn.utils._param_validation import InvalidParameterError, validate_parameter_constraints

    found = []
    for key, value in given.items():
        plain = key in constraints and not any(walk(value)) and key not in {"transformers", "steps"}
        if not plain:
            continue
        try:
            validate_parameter_constraints({key: constraints[key]}, {key: value}, caller_name=kind.__name__)
        except InvalidParameterError as error:
            found.append(f"{key}: {error}")
    return found
