"""Compose conf/ into params.yaml, the lock of the configuration, and check all of it before any stage runs.

In a DVC experiment (DVC_EXP_NAME is set) DVC has composed params.yaml itself; then it is only checked.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.config import PARAMS, Config, nearest, problems_in, read_params, several, validate
from stages.errors import ConfigError, run_stage
from stages.files import QUERY, write_atomically
from stages.interpolations import close_environment, override_problems
from stages.interpolations import problems as interpolation_problems
from stages.versions import pin

CONF = Path("conf")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.configure", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether params.yaml is what conf/ composes to")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, such as model=logistic_regression")
    args = parser.parse_args(argv)
    if args.check:
        check()
    elif os.environ.get("DVC_EXP_NAME"):
        _refuse_interpolations()
        config = validated(read_params(), {})
        write_atomically(QUERY, config.data.query.read_text(encoding="utf-8"))
        pin()
        print(f"configure: {PARAMS} as the experiment {os.environ['DVC_EXP_NAME']} composed it is valid")
    else:
        text, config = composed(args.overrides)
        changed = write_atomically(PARAMS, text)
        write_atomically(QUERY, config.data.query.read_text(encoding="utf-8"))
        pin()
        print(f"configure: {PARAMS} {'written' if changed else 'unchanged'} from {CONF}/ (data {config.data.name})")


def check() -> None:
    """Raise ConfigError with the difference where params.yaml is not what conf/ composes to."""
    text, _ = composed()
    there = PARAMS.read_text(encoding="utf-8") if PARAMS.exists() else ""
    if text != there:
        lines = difflib.unified_diff(
            there.splitlines(), text.splitlines(), str(PARAMS), f"{CONF}/ composed", n=0, lineterm=""
        )
        difference = "\n".join(f"  {line}" for line in list(lines)[:40])
        raise ConfigError(
            f"{PARAMS} is not what {CONF}/ composes to; run `dvc repro` and commit it, or, to keep what {PARAMS} says "
            f"(an applied experiment), `python -m stages.adopt`:\n{difference}"
        )
    print(f"configure: {PARAMS} is what {CONF}/ composes to")


def composed(overrides: Sequence[str] = ()) -> tuple[str, Config]:
    """params.yaml's text as conf/ composes it, and the typed config. Raises ConfigError naming every problem."""
    _refuse_interpolations(overrides)
    missing, stand_ins = _missing_options(overrides)
    tree, text, choices = compose_tree([*overrides, *stand_ins])
    origins = {group: f"{CONF}/{group}/{option}.yaml" for group, option in choices.items()}
    origins["seed"] = f"{CONF}/config.yaml"
    try:
        config = validated(tree, origins)
    except ConfigError as error:
        if not missing:
            raise
        raise ConfigError(several([*missing, *_unwrapped(str(error))])) from None
    if missing:
        raise ConfigError(several(missing))
    return text, config


def compose_tree(overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str, dict[str, str]]:
    """What Hydra composes: the plain tree, its YAML (byte for byte what DVC writes), the option of each group."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    close_environment()
    try:
        with initialize_config_dir(str(CONF.absolute()), version_base=None):
            config = compose("config", overrides=list(overrides), return_hydra_config=True)
        choices = {str(group): str(option) for group, option in config.hydra.runtime.choices.items()}
        with open_dict(config):
            del config["hydra"]
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{CONF}/: {' '.join(str(error).split())}") from None
    assert isinstance(config, DictConfig)
    groups = {group: option for group, option in choices.items() if "/" not in group}
    tree = OmegaConf.to_container(config)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}, OmegaConf.to_yaml(config), groups


def _refuse_interpolations(overrides: Sequence[str] = ()) -> None:
    said = [*interpolation_problems(CONF), *override_problems(overrides)]
    if said:
        raise ConfigError(several(said))


def _missing_options(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Groups whose option has no file, a sentence each, and overrides that put another in its place meanwhile."""
    try:
        defaults = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8")).get("defaults", [])
    except (OSError, yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise ConfigError(f"{CONF}/config.yaml: not readable as YAML with a `defaults` list ({error})") from None
    pairs = [pair for entry in defaults if isinstance(entry, dict) for pair in entry.items()]
    chosen = {str(group).removeprefix("override ").lstrip("/"): str(option) for group, option in pairs}
    chosen |= dict(pair.split("=", 1) for pair in overrides if "=" in pair and pair.split("=", 1)[0] in chosen)
    said, stand_ins = [], []
    for group, option in chosen.items():
        there = options_of(group)
        if option not in there:
            said.append(
                f"{CONF}/config.yaml: {group}: there is no {CONF}/{group}/{option}.yaml{nearest(option, there)}; "
                f"there are {', '.join(there)}"
            )
            stand_ins += [f"{group}={there[0]}"] if there else []
    return said, stand_ins


def options_of(group: str) -> list[str]:
    """The options of a config group: its files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def validated(tree: dict[str, Any], origins: Mapping[str, str]) -> Config:
    """The typed config, its nodes checked against the classes that they name. Raises ConfigError with all problems."""
    from stages.nodes import problems
    from stages.serving import Serve

    targets = _targets(tree)
    said = [
        _placed(problem, origins)
        for group in ("features", "model", "train")
        for problem in problems(group, tree.get(group), targets)
    ]
    nodes_sound = not said
    said += problems_in("serve", Serve, tree["serve"], origins) if isinstance(tree.get("serve"), dict) else []
    try:
        config = validate(tree, origins)
    except ConfigError as error:
        raise ConfigError(several([*_unwrapped(str(error)), *said])) from None
    said += _beyond_types(config, origins, nodes_sound=nodes_sound)
    if said:
        raise ConfigError(several(said))
    return config


def _beyond_types(config: Config, origins: Mapping[str, str], nodes_sound: bool) -> list[str]:
    from stages.nodes import task_problem

    said = _scorer_problems(config)
    known = config.data.columns.sliceable
    said += [
        f"evaluate.slices: {name!r} is no column of the data{nearest(name, known)}"
        for name in config.evaluate.slices
        if name not in known
    ]
    if not config.data.query.is_file():
        near = nearest(config.data.query.name, [path.name for path in (CONF / "data").glob("*.sql")])
        said.append(f"data.query: there is no file {config.data.query}{near}")
    if nodes_sound:
        wrong = task_problem(config.model, config.data.task, config.train.targets)
        said += [wrong] if wrong else []
    return [_placed(problem, origins) for problem in said]


def _scorer_problems(config: Config) -> list[str]:
    """Metrics that are unknown or do not fit the task: each is named once, at the first key that has it."""
    from stages.scorers import label_problem, metric_problem

    scoring = (config.train.search or {}).get("scoring")
    named: dict[str, str] = {}
    for key, names in (
        ("evaluate.metrics", config.evaluate.metrics),
        ("data.task.primary", (config.data.task.primary,)),
        ("train.search.scoring", (scoring,) if isinstance(scoring, str) else ()),
    ):
        for name in names:
            named.setdefault(name, key)
    found = [(key, metric_problem(name, config.data.task.name)) for name, key in named.items()]
    if config.train.threshold is not None:
        found.append(("train.threshold", label_problem(config.train.threshold)))
    return [f"{key}: {problem}" for key, problem in found if problem]


def _targets(tree: Mapping[str, Any]) -> list[str]:
    train = tree.get("train")
    targets = train.get("targets") if isinstance(train, dict) else None
    return [str(target) for target in targets] if isinstance(targets, list) else []


def _placed(problem: str, origins: Mapping[str, str]) -> str:
    group = problem.split(".", 1)[0]
    return f"{origins.get(group, PARAMS)}: {problem}"


def _unwrapped(message: str) -> list[str]:
    lines = message.splitlines()
    return [line.strip() for line in lines[1:]] if len(lines) > 1 else lines


if __name__ == "__main__":
    gc.disable()  # a second of a short life goes into imports, and a third of that into looking for garbage in them
    run_stage(main)
    gc.freeze()  # nor is it looked for at the end
