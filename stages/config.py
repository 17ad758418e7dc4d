"""Every config model, and `load_config`, the one reader of params.yaml.

DVC composes conf/ in a process of its own, where nothing of ours is imported, so the types live here and not in
Hydra's structured configs. All problems are reported at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import unquote

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from stages.errors import ConfigError

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")

Node = dict[str, Any]
"""A tree that Hydra instantiates: `_target_` and the arguments."""

_SPAN = re.compile(r"(\d+)\s*([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


def _span(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _SPAN.fullmatch(value.strip())
    if match is None:
        raise ValueError("a span of time is a number and d, h or m, such as 31d or 6h")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


Span = Annotated[timedelta, BeforeValidator(_span)]


class Frozen(BaseModel):
    """No key that is not named here, no change after it was read."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


_SECRETS = re.compile(
    r"token|passw|pwd|secret|credential|signature|^sig$|^auth|^key$|(api|access|account)[-_]?key", re.IGNORECASE
)


def secret_in(url: str) -> str | None:
    """In words, what a URL (or a chain of them, with `::`) holds that is secret; never the secret itself."""
    for part in url.split("::"):
        scheme, mark, rest = part.partition("://")
        user, at, _ = rest.split("/", 1)[0].rpartition("@")
        if mark and at and (":" in user or scheme in {"http", "https"}):  # abfs://container@account is no user
            return "a user or password"
        for pair in re.split("[?&;#]", rest)[1:]:
            name = unquote(pair.partition("=")[0])
            if _SECRETS.search(name):
                return f"a secret (`{name}`)"
    return None


class KnownLate(Frozen):
    """Columns whose values come to be known at the moment `at`, an SQL expression over the table (naive UTC)."""

    columns: tuple[str, ...]
    at: str


class Table(Frozen):
    """Where a raw table comes from: a file in a package, a path or URL, or a query to a database."""

    package: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]+$")  # a dot would import what stands before it
    path: str | None = None
    database: str | None = Field(None, description="the environment variable that holds the SQLAlchemy URL")
    query: str | None = None
    format: Literal["csv", "parquet", "json"] | None = None
    read: Node = {}
    known_late: tuple[KnownLate, ...] = ()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.database is not None:
            if self.query is None or self.path is not None or self.package is not None:
                raise ValueError("a table from a database has `database` and `query`, and no `path` or `package`")
        elif self.path is None:
            raise ValueError("a table needs `path` (in a `package`, or a local path or URL), or `database` and `query`")
        elif self.query is not None:
            raise ValueError("`query` goes with `database`; the SQL over all tables is data.query")
        return self

    def secret(self) -> str | None:
        """What stands here that belongs into the environment, and what to do; conf is committed."""
        if self.database is not None and not re.fullmatch(r"[A-Za-z_]\w*", self.database):
            return (
                "database is the name of an environment variable that holds the URL, such as TICKETS_URL, and never "
                "the URL: what stands in conf is committed"
            )
        secret = secret_in(self.path or "")
        return secret and (
            f"path holds {secret}, and what stands in conf is committed; read it over s3:// or gs://, whose "
            "credentials come from the environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS), or put the "
            "file into data/source"
        )


class Column(Frozen):
    """The contract of one feature; a row that breaks it is quarantined. Bounds are inclusive."""

    nullable: bool = True
    min: float | None = None
    max: float | None = None
    allowed: tuple[str, ...] | None = None
    unit: str | None = None


class Columns(Frozen):
    """The columns of the query by role."""

    target: str
    time: str | None
    key: tuple[str, ...]
    numeric: dict[str, Column]
    categorical: dict[str, Column]
    passthrough: tuple[str, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        return (*self.numeric, *self.categorical)

    @property
    def sliceable(self) -> tuple[str, ...]:
        """Columns whose values `evaluate` can take the test split apart by."""
        return (*self.features, *self.passthrough, *self.key)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not self.features:
            raise ValueError("there is no feature: name at least one column under numeric or categorical")
        both = sorted(set(self.numeric) & set(self.categorical))
        if both:
            raise ValueError(f"{', '.join(both)}: both numeric and categorical; a column has one kind")
        if self.target in self.features:
            raise ValueError(f"the target {self.target!r} is also a feature")
        for name, column in self.numeric.items():
            if column.allowed is not None:
                raise ValueError(f"{name}: `allowed` is for categorical columns, `min` and `max` for numeric ones")
        for name, column in self.categorical.items():
            if column.min is not None or column.max is not None:
                raise ValueError(f"{name}: `min` and `max` are for numeric columns, `allowed` for categorical ones")
        return self


class Split(Frozen):
    """How rows are parted. By time: spans before (test, validation) and after (current) as_of; else shares of rows."""

    by: Literal["time", "random", "stratified", "grouped", "predefined"]
    test: Span | float
    validation: Span | float
    current: Span | float
    groups: str | None = None
    column: str | None = None
    seed: int = Field(42, ge=0, description="draws the rows anew; the model's seed does not")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        sizes = {"test": self.test, "validation": self.validation, "current": self.current}
        for name, size in sizes.items():
            if isinstance(size, timedelta) != (self.by == "time") and self.by != "predefined":
                wanted = "a span such as 31d" if self.by == "time" else "a share of the rows such as 0.2"
                raise ValueError(f"{name}: with `by: {self.by}` it is {wanted}")
        shares = [size for size in sizes.values() if isinstance(size, float)]
        if any(not 0 <= share < 1 for share in shares) or sum(shares) >= 1:
            raise ValueError("the shares of test, validation and current are 0 or more and leave rows to train on")
        if self.by == "grouped" and self.groups is None:
            raise ValueError("`by: grouped` needs `groups`, the column whose values stay together")
        if self.by == "predefined" and self.column is None:
            raise ValueError("`by: predefined` needs `column`, which says train, validation, test or current")
        return self


class Task(Frozen):
    name: Literal["binary", "multiclass", "regression"]
    estimator: Literal["Classifier", "Regressor"]
    primary: str
    metrics: tuple[str, ...]


class Leakage(Frozen):
    limit: float = Field(gt=0.5, le=1.01)
    accepted: tuple[str, ...] = ()


class Data(Frozen):
    """conf/data/NAME.yaml."""

    task: Task
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    tables: dict[str, Table] = Field(min_length=1)
    query: Path
    as_of: datetime | None
    snapshot: int
    columns: Columns
    slices: tuple[str, ...]
    split: Split
    quarantine: float = Field(ge=0, le=1)
    leakage: Leakage

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.split.by == "time" and (self.as_of is None or self.columns.time is None):
            raise ValueError("a split by time needs `as_of`, a date such as 2013-08-01, and `columns.time`")
        for name, table in self.tables.items():
            if secret := table.secret():
                raise ValueError(f"tables.{name}.{secret}")
        for name in self.slices:
            if name not in self.columns.sliceable:
                raise ValueError(f"slices: {name!r} is no column of the data{nearest(name, self.columns.sliceable)}")
        return self


class Train(Frozen):
    threshold: str | None
    search: Node | None
    targets: tuple[str, ...]


class Importance(Frozen):
    rows: int = Field(gt=0)
    repeats: int = Field(gt=0)


class Gate(Frozen):
    champion: str | None = Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")
    margin: float = Field(ge=0, lt=1)


class Evaluate(Frozen):
    metrics: tuple[str, ...] = Field(min_length=1)
    primary: str
    resamples: int = Field(ge=2)
    confidence: float = Field(gt=0, lt=1)
    slices: tuple[str, ...]
    smallest_slice: int = Field(gt=0)
    importance: Importance
    gate: Gate

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.primary not in self.metrics:
            raise ValueError(f"primary: {self.primary!r} is not among metrics ({', '.join(self.metrics)})")
        return self


class Drift(Frozen):
    alpha: float = Field(gt=0, lt=1)
    effect: float = Field(ge=0, le=1)
    missing: float = Field(ge=0, le=1)
    new: float = Field(ge=0, le=1)
    share: float = Field(gt=0, le=1)
    sample: int = Field(gt=0)
    classifier: float = Field(ge=0.5, le=1)
    calibration: float = Field(ge=0)
    performance: float = Field(ge=0)
    evidently_rows: int = Field(ge=0)
    ignore: tuple[str, ...]


class Tracking(Frozen):
    mode: Literal["embedded", "server", "off"]
    uri: str | None
    experiment: str
    model: str
    timeout: float = Field(gt=0)
    deadline: float = Field(gt=0)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.mode == "server") != (self.uri is not None):
            raise ValueError(f"mode: {self.mode} {'needs a `uri`' if self.uri is None else 'takes no `uri`'}")
        secret = secret_in(self.uri or "")
        if secret:
            raise ValueError(
                f"`uri` holds {secret}, and what stands in conf is committed; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, instead"
            )
        return self


class Engine(Frozen):
    name: Literal["duckdb"]
    memory_limit: str
    threads: int | None = Field(gt=0)


class Config(Frozen):
    """params.yaml, checked. Fields are the config groups of conf/."""

    data: Data
    features: Node
    model: Node
    train: Train
    evaluate: Evaluate
    drift: Drift
    tracking: Tracking
    engine: Engine
    serve: Node  # stages.serving has its types: no stage reads it, so none depends on them
    seed: int = Field(ge=0, lt=2**32)


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the most similar of the known names, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def validate(tree: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> Config:
    """The typed config of a composed tree.

    origins names the file that each group came from, for the message. Raises ConfigError with every problem at once.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(several(_said(error, Config, origins or {}))) from None


def problems_in(group: str, model: type[BaseModel], tree: object, origins: Mapping[str, str]) -> list[str]:
    """What is wrong with a config group whose types stand in another module, a sentence each."""
    try:
        model.model_validate(tree)
    except ValidationError as error:
        return _said(error, model, origins, (group,))
    return []


def _said(
    error: ValidationError, model: type[BaseModel], origins: Mapping[str, str], above: tuple[str, ...] = ()
) -> list[str]:
    said: dict[tuple[str, ...], str] = {}
    for detail in error.errors():  # an arm of a union each: the first will do
        said.setdefault(_path(detail), _problem(detail, model, origins, above))
    return list(said.values())


def several(lines: list[str]) -> str:
    """One message for one problem or many."""
    return (
        lines[0]
        if len(lines) == 1
        else "\n".join([f"{len(lines)} problems in the config:", *(f"  {x}" for x in lines)])
    )


def _problem(detail: ErrorDetails, model: type[BaseModel], origins: Mapping[str, str], above: tuple[str, ...]) -> str:
    path = (*above, *_path(detail))
    file = origins.get(path[0] if path else "", str(PARAMS))
    where = ".".join(path) or "the config"
    if detail["type"] == "extra_forbidden":
        siblings = _fields_at(model, path[len(above) : -1])
        allowed = f"; allowed are {', '.join(siblings)}" if siblings else ""
        return f"{file}: {where}: there is no such key{nearest(path[-1], siblings)}{allowed}"
    if detail["type"] == "missing":
        return f"{file}: {where}: this key is missing"
    said = detail["msg"].removeprefix("Value error, ")
    value = detail["input"]
    shown = "" if isinstance(value, (dict, list)) else f" is {value!r}"
    return f"{file}: {where}{shown}: {said[:1].lower()}{said[1:]}"


def _path(detail: ErrorDetails) -> tuple[str, ...]:
    return tuple(str(part) for part in detail["loc"] if part not in _BRANCHES)


_BRANCHES = {"float", "function-before[_span(), timedelta]"}  # pydantic's names for the arms of a union


def _fields_at(model: Any, path: Sequence[str]) -> tuple[str, ...]:
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[part].annotation
        else:
            model = next((arg for arg in get_args(model) if arg is not str), None)
    arms = [model, *get_args(model)]
    return next((tuple(a.model_fields) for a in arms if isinstance(a, type) and issubclass(a, BaseModel)), ())


def read_params(path: Path = PARAMS) -> dict[str, Any]:
    """params.yaml as a plain tree. Raises ConfigError where it is missing or no YAML."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; `python -m stages.configure` writes it") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error}); delete it and run `dvc repro`") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected config groups, found {type(tree).__name__}; delete it and run `dvc repro`")
    return tree


def listed_params(stage: str, pipeline: Path = PIPELINE) -> tuple[str, ...]:
    """The dotted keys that dvc.yaml lists under `params:` of the stage."""
    stages = yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"]
    return tuple(stages[stage].get("params", ()))


def listed_code(stage: str, pipeline: Path = PIPELINE) -> tuple[str, ...]:
    """The files and folders of our own code that dvc.yaml lists under `deps:` of the stage."""
    stages = yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"]
    return tuple(dep for dep in stages[stage].get("deps", ()) if dep.startswith("stages/"))


def slice_of(tree: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The parts of a tree that the dotted keys name, as a tree."""
    kept: dict[str, Any] = {}
    for key in keys:
        node: Any = tree
        target = kept
        *parents, leaf = key.split(".")
        for parent in parents:
            node, target = node[parent], target.setdefault(parent, {})
        target[leaf] = node[leaf]
    return kept


def load_config(stage: str) -> Config:
    """params.yaml for one stage: checked whole, then cut down to what dvc.yaml lists under its `params:`.

    Reading anything else raises AttributeError, so a stage cannot depend on a parameter that DVC does not watch.
    """
    config = validate(read_params())
    _cut(config, listed_params(stage))
    return config


def _cut(model: BaseModel, keys: Iterable[str]) -> None:
    kept: dict[str, list[str]] = {}
    for key in keys:
        head, _, rest = key.partition(".")
        kept.setdefault(head, []).append(rest)
    for name in list(model.__dict__):
        if name not in kept:
            del model.__dict__[name]
        elif all(kept[name]) and isinstance(model.__dict__[name], BaseModel):
            _cut(model.__dict__[name], kept[name])
