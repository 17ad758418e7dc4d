"""What conf/ may interpolate: other values of conf/, and nothing of the machine, since params.yaml is committed.

Looked for in the files, before anything is composed: DVC composes too, in a process of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from stages.errors import ConfigError

ALLOWED = ("oc.dict.keys", "oc.dict.values")
REFUSED = ("oc.env", "oc.decode", "oc.create")
NEXT = (
    "a secret comes from the environment when it is used, by the name of its variable (`database: TICKETS_URL`); "
    "write any other value itself"
)
_MADE = re.compile(r"\\\$\{|(?<!\$)\{")  # what together with another value would read as an interpolation


def problems(conf: Path) -> list[str]:
    """What the files of conf/ interpolate that they may not, a sentence each; one that is no YAML is not our matter."""
    said = []
    for path in sorted([*conf.rglob("*.yaml"), *conf.rglob("*.yml")]):
        try:
            tree = yaml.compose(path.read_text(encoding="utf-8"), Loader=_LOADER)
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            continue
        said += [f"{path}:{line}: {problem}" for line, problem in _in_tree(tree)]
    return said


def override_problems(overrides: Iterable[str]) -> list[str]:
    """The same for overrides on the command line."""
    found = ((override.partition("=")[0], _resolver_problem(override)) for override in overrides if "${" in override)
    return [f"override {key}: {problem}" for key, problem in found if problem]


def close_environment() -> None:
    """Make those resolvers fail in this process, whatever way a text found to name one."""
    from omegaconf import OmegaConf

    for name in REFUSED:
        OmegaConf.register_new_resolver(name, _refuse, replace=True)


def _refuse(*_: Any) -> NoReturn:
    raise ConfigError(f"{', '.join(REFUSED)} are not for conf/, params.yaml is committed; {NEXT}")


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _in_tree(tree: Any) -> Iterator[tuple[int, str]]:
    """Line and problem of each scalar."""
    if isinstance(tree, yaml.MappingNode):
        for key, _ in tree.value:
            if key.value in {"hydra", "searchpath"}:  # from there Hydra imports modules and reads other folders
                yield key.start_mark.line + 1, f"{key.value}: conf/ says what is run, not how Hydra works; take it out"
    waiting, seen = [tree], set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:  # an alias may hold itself
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            problem = _problem(node.value)
            if problem:
                yield node.start_mark.line + 1, problem
        else:
            pairs = [*sum(node.value, ())] if isinstance(node, yaml.MappingNode) else node.value
            waiting += reversed(pairs)


def _problem(text: str) -> str | None:
    if "${" not in text:
        return f"{text!r}: a text cannot begin with {{, it could complete an interpolation" if text[:1] == "{" else None
    problem = _resolver_problem(text)
    if problem is None and _MADE.search(text):
        return f"{text!r}: an interpolation is not put together from pieces; write the value"
    return problem


def _resolver_problem(text: str) -> str | None:
    from omegaconf.errors import GrammarParseError
    from omegaconf.grammar_parser import parse

    try:
        names = list(_resolvers(parse(text)))
    except GrammarParseError:
        return None  # composing it tells more
    foreign = [name for name in names if name not in ALLOWED]
    if not foreign:
        return None
    return f"${{{foreign[0]}:…}} is not for conf/, params.yaml is committed with what it gives; {NEXT}"


def _resolvers(tree: Any) -> Iterator[str]:
    """The names of the resolvers that a parsed text calls, as they are written."""
    from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser

    if isinstance(tree, OmegaConfGrammarParser.InterpolationResolverContext):
        yield tree.resolverName().getText()  # type: ignore[no-untyped-call]
    for child in getattr(tree, "children", None) or ():
        yield from _resolvers(child)
