"""How the model is served: the config group `serve`. Read by configure, to check it, and by serve itself."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """No key that is not named here, no change after it was read."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Pins(Section):
    """Which bundle is which variant. With `lock` the champion is what dvc.lock pins."""

    source: Literal["lock", "git", "registry"]
    champion: str | None = Field(description="git: a revision or experiment; registry: an alias")
    challenger: str | None
    every: float = Field(gt=0, le=60, description="seconds between two looks at the pointer")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.source == "lock" and (self.champion is not None or self.challenger is not None):
            raise ValueError("source: lock takes no `champion` and no `challenger`; dvc.lock alone says what is served")
        if self.source != "lock" and self.champion is None:
            what = "a tag, branch, commit or experiment" if self.source == "git" else "an alias of the MLflow Registry"
            raise ValueError(f"source: {self.source} needs `champion`, {what}")
        return self


class Limits(Section):
    """What one request, and all of them together, may ask for."""

    bytes: int = Field(gt=0, description="of a body, after it was decompressed")
    rows: int = Field(gt=0)
    requests: int = Field(gt=0, description="at work or waiting; beyond it 503")
    seconds: float = Field(gt=0, description="for a body to arrive, and for an answer")
    spool: int = Field(2_000_000_000, gt=0, description="bytes on disk for a file that is scored, each way")


class Log(Section):
    """The prediction log. Sizes in MB (10^6 bytes), times in seconds."""

    enabled: bool
    folder: PurePosixPath
    sample: float = Field(ge=0, le=1, description="the share of requests that is logged")
    megabytes: float = Field(gt=0, description="a file is closed when it is larger")
    seconds: float = Field(gt=0, description="a file is closed when it is older")
    keep_megabytes: float = Field(gt=0, description="all files together; the oldest go first")
    hash: tuple[str, ...] = Field(description="columns of which a keyed hash is kept instead of the value")
    omit: tuple[str, ...] = Field(description="columns that are not kept")


class Serve(Section):
    """conf/serve/NAME.yaml."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")
    pins: Pins
    limits: Limits
    log: Log
