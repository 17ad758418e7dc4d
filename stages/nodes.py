"""Nodes of conf/ (`_target_` and arguments): check them before anything runs, and build them with Hydra."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from stages.config import Node, Task, nearest, several
from stages.errors import ConfigError

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

_OWN_KEYS = {"_target_", "_args_", "_partial_", "_convert_", "_recursive_"}


def build(node: Node, targets: Sequence[str]) -> Any:
    """The object that a node describes. Raises ConfigError for a `_target_` outside the allowed module prefixes."""
    from hydra.utils import instantiate

    said = _hidden("node", node)
    for path, inner in walk(node, ("node",)):
        found = _located(inner["_target_"], targets)
        said += [f"{'.'.join(path)}._target_: {found}"] if isinstance(found, str) else []
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
    found = _hidden(group, tree)
    for path, node in walk(tree, (group,)):
        where = ".".join(path)
        kind = _located(node["_target_"], targets)
        if isinstance(kind, str):
            found.append(f"{where}._target_: {kind}")
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


def _located(target: object, targets: Sequence[str]) -> Any:
    """The class or function, or a sentence why there is none that may be used.

    Only an attribute of a module counts, and both its name and the module that defines it must be allowed: otherwise
    `sklearn.datasets._base.os.system` would reach out of scikit-learn through what that imports.
    """
    if not isinstance(target, str) or not _allowed(target, targets):
        return f"{target!r} is outside {_allowed_are(targets)}"
    module, _, name = target.rpartition(".")
    if not module:
        return f"{target!r} is a module; name a class or function in it"
    try:
        found = import_module(module)
    except ImportError as error:
        return f"{target!r} cannot be imported ({error})"
    if not hasattr(found, name):
        return f"{module} has no {name!r}{nearest(name, vars(found))}"
    kind = getattr(found, name)
    if not callable(kind):
        return f"{target!r} is no class or function"
    home = str(getattr(kind, "__module__", None) or type(kind).__module__)
    return kind if _allowed(home, targets) else f"{target!r} comes from {home}, outside {_allowed_are(targets)}"


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
