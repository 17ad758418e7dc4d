"""Hold dvc.yaml's `deps` against what each stage really imports: DVC does not see Python imports, so we look."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import yaml

from stages.config import PIPELINE, several
from stages.errors import ConfigError, run_stage

PACKAGE = "stages"


def main() -> None:
    said = problems(PIPELINE.read_text(encoding="utf-8"), Path())
    if said:
        raise ConfigError(several(said))
    print(f"closure: the deps of every stage in {PIPELINE} are the modules that it imports")


def problems(pipeline: str, root: Path) -> list[str]:
    """What dvc.yaml's text lists too little or too much of our own code, a sentence each."""
    said = []
    for name, stage in yaml.safe_load(pipeline)["stages"].items():
        command = stage["cmd"].split()
        module = command[command.index("-m") + 1]
        needed = closure(module, root)
        listed = {dep for dep in stage.get("deps", ()) if dep.startswith(f"{PACKAGE}/")}
        absent = sorted(path for path in needed if not any(covers(dep, path) for dep in listed))
        idle = sorted(dep for dep in listed if not any(covers(dep, path) for path in needed))
        if absent:
            said.append(f"{PIPELINE}: {name}: imports {', '.join(absent)}; add to its deps")
        if idle:
            said.append(f"{PIPELINE}: {name}: does not import {', '.join(idle)}; remove from its deps")
    return said


def covers(dep: str, path: str) -> bool:
    """Whether a dep (a file or a folder) holds the file."""
    return path == dep or path.startswith(dep.rstrip("/") + "/")


def closure(module: str, root: Path) -> set[str]:
    """The files of our own package that a module imports, at any depth, inside functions too, and its own."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        path = _file(waiting.pop(), root)
        if path is None or path.as_posix() in found:
            continue
        found.add(path.as_posix())
        found.update(beside.as_posix() for beside in _templates(path, root))
        waiting += _imported(ast.parse((root / path).read_text(encoding="utf-8")))
    return {path for path in found if path != f"{PACKAGE}/__init__.py"}


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(f"{PACKAGE}."):
            yield node.value  # a module that is run or loaded by its name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE and not node.level:
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file(module: str, root: Path) -> Path | None:
    path = Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (root / candidate).is_file():
            return candidate
    return None


def _templates(path: Path, root: Path) -> list[Path]:
    """Jinja templates beside a module that names them."""
    text = (root / path).read_text(encoding="utf-8")
    return [p.relative_to(root) for p in sorted((root / path).parent.glob("*.j2")) if p.name in text]


if __name__ == "__main__":
    run_stage(main)
