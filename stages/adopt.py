"""Write what params.yaml says into conf/, so that an applied experiment becomes the default.

`dvc exp apply NAME`, then `python -m stages.adopt`, then `dvc repro`: nothing is trained again, because params.yaml and
every pinned output stay as they are. Only the values that change are written: the rest of each file stays as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from stages.config import PARAMS, read_params
from stages.configure import CONF, compose_tree, options_of, validated
from stages.errors import ConfigError, run_stage
from stages.files import write_atomically

Key = tuple[str, ...]
CONFIG = CONF / "config.yaml"


def main() -> None:
    for change in adopt():
        print(f"adopt: {change}")
    print(f"adopt: {CONF}/ composes to {PARAMS}; `dvc repro` has nothing to train, commit both")


def adopt() -> list[str]:
    """Switch groups and edit values in conf/ until it composes to params.yaml; what was changed, a sentence each.

    Where conf/ cannot say it (a key taken away), every file is put back and ConfigError raised.
    """
    wanted = read_params()
    validated(wanted, {})
    before = {path: path.read_text(encoding="utf-8") for path in CONF.rglob("*.yaml")}
    try:
        changes = [*_switch_groups(wanted), *_edit_values(wanted)]
        left = list(differences(wanted, compose_tree()[0]))
        if left:
            keys = ", ".join(".".join(key) for key, _ in left[:5])
            raise ConfigError(f"{PARAMS}: {CONF}/ cannot be made to say {keys}; edit {CONF}/ by hand")
    except BaseException:
        for path, text in before.items():
            write_atomically(path, text)
        raise
    return changes


def _switch_groups(wanted: dict[str, Any]) -> Iterator[str]:
    """Choose the option of each group that differs least from what is wanted."""
    groups = [group for group in wanted if (CONF / group).is_dir()]
    tree, _, choices = compose_tree()
    for group in sorted(groups, key=lambda group: group == "features"):  # a model may bring its features along
        if not list(differences(wanted[group], tree[group])):
            continue
        scores = {option: _distance(group, option, wanted) for option in options_of(group)}
        best = min(scores, key=lambda option: (scores[option], option != choices[group]))
        if scores[best] < scores[choices[group]]:
            _choose(group, best)
            yield f"{CONFIG}: {group}: {choices[group]} → {best}"
            tree, _, choices = compose_tree()


def _choose(group: str, option: str) -> None:
    """Name the option in the defaults; where another option overrides it (a model its features), override that."""
    text = CONFIG.read_text(encoding="utf-8")
    entries = _child(yaml.compose(text), "defaults").value
    for name in (group, f"override {group}"):
        for entry in entries:
            if _child(entry, name) is not None:
                write_atomically(CONFIG, _replaced(text, _child(entry, name), option))
                if compose_tree()[2][group] == option:
                    return
    text, last = CONFIG.read_text(encoding="utf-8"), entries[-1]
    line_end = text.index("\n", _end(_child(yaml.compose(text), "defaults")))
    added = f"{' ' * (last.start_mark.column - 2)}- override {group}: {option}"
    write_atomically(CONFIG, f"{text[:line_end]}\n{added}{text[line_end:]}")


def _distance(group: str, option: str, wanted: dict[str, Any]) -> float:
    """How many values of the group differ when it has this option; another class or data set outweighs all of them."""
    try:
        tree = compose_tree([f"{group}={option}"])[0]
    except ConfigError:
        return float("inf")
    here, there = dict(_leaves(wanted[group])), dict(_leaves(tree.get(group)))
    differing = [key for key in {**here, **there} if key not in here or key not in there or here[key] != there[key]]
    return sum(1000 if key in {("_target_",), ("name",), ("mode",)} else 1 for key in differing)


def _leaves(tree: Any, path: Key = ()) -> Iterator[tuple[Key, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*path, str(key)))
    else:
        yield path, tree


def _edit_values(wanted: dict[str, Any]) -> Iterator[str]:
    """Write each value that still differs into the file that its group was composed from.

    Interpolated ones come last: `${seed}` follows the seed by itself.
    """
    for interpolated in (False, True):
        tree, _, choices = compose_tree()
        for key, value in differences(wanted, tree):
            path, inside = _place(key, choices)
            text = path.read_text(encoding="utf-8")
            node = yaml.compose(text)
            for part in inside:
                node = _child(node, part)
            if interpolated or node is None or "${" not in str(node.value):
                write_atomically(path, _set(text, inside, value))
                yield f"{path}: {'.'.join(inside)} = {value!r}"


def _place(key: Key, choices: dict[str, str]) -> tuple[Path, Key]:
    """The file that says a key of the config, and the key inside it."""
    if key[0] not in choices:
        return CONFIG, key
    path = CONF / key[0] / f"{choices[key[0]]}.yaml"
    whole = path.read_text(encoding="utf-8").startswith("# @package _global_")
    if not whole and len(key) == 1:
        raise ConfigError(f"{PARAMS}: {key[0]} lacks a key that {path} has; take it out there by hand")
    return path, key if whole else key[1:]


def differences(wanted: Any, there: Any, path: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Keys whose value is another than wanted (a list counts as one value), with the value wanted."""
    if isinstance(wanted, dict) and isinstance(there, dict) and not (set(there) - set(wanted)):
        for key, value in wanted.items():
            if key not in there:
                yield (*path, str(key)), value
            else:
                yield from differences(value, there[key], (*path, str(key)))
    elif wanted != there or isinstance(wanted, bool) != isinstance(there, bool):
        yield path, wanted


def _set(text: str, key: Key, value: Any) -> str:
    """The YAML text with another value at the key; every other character stays."""
    mapping = yaml.compose(text)
    for depth, part in enumerate(key):
        found = _child(mapping, part)
        if found is None or (depth < len(key) - 1 and not isinstance(found, yaml.MappingNode)):
            for inner in reversed(key[depth + 1 :]):
                value = {inner: value}
            return _inserted(text, mapping, part, value) if found is None else _replaced(text, found, value)
        mapping = found
    return _replaced(text, mapping, value)


def _replaced(text: str, node: Any, value: Any) -> str:
    start, end = node.start_mark.index, _end(node)
    space = " " if start == end else ""  # `key:` without a value
    return f"{text[:start]}{space}{_flow(value)}{text[end:]}"


def _inserted(text: str, mapping: Any, key: str, value: Any) -> str:
    """A new key as the last, where Hydra has it too."""
    said = f"{key}: {_flow(value)}"
    if mapping is None or (not mapping.value and not mapping.flow_style):
        return f"{text.rstrip()}\n{said}\n".lstrip()
    end = _end(mapping)
    if mapping.flow_style:
        there = text[: end - 1].rstrip()
        return f"{there}{',' if mapping.value else ''} {said} {text[end - 1 :]}"
    line_end = end - 1 if text[end - 1] == "\n" else text.find("\n", end)  # a block of text ends with its line
    line_end = len(text) if line_end < 0 else line_end
    return f"{text[:line_end]}\n{' ' * mapping.start_mark.column}{said}{text[line_end:]}"


def _child(node: Any, key: str) -> Any:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)


def _end(node: Any) -> int:
    """Where the node's own text ends; PyYAML counts the comments after a block as part of it."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


class _Quoting(yaml.SafeDumper):
    """Quotes also what Hydra alone takes for a number, such as 1e3."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    number = re.fullmatch(r"[-+]?[\d_.]+[eE][-+]?\d+", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if number else None)


_Quoting.add_representer(str, _text)


def _flow(value: Any) -> str:
    said = yaml.dump(value, None, _Quoting, default_flow_style=True, width=10**9, allow_unicode=True, sort_keys=False)
    return str(said).removesuffix("\n").removesuffix("\n...")


if __name__ == "__main__":
    run_stage(main)
