"""Which bundle is to be served: the md5 that dvc.lock pins for data/model."""

from __future__ import annotations

from pathlib import Path

import yaml

from stages.errors import ModelError

LOCK = Path("dvc.lock")
OUT = "data/model"


def pinned(lock: Path = LOCK) -> str:
    """The md5 ("….dir") of the model that the lock file pins. Raises ModelError where it pins none."""
    try:
        tree = yaml.safe_load(lock.read_text(encoding="utf-8"))
        outs = [out for stage in tree["stages"].values() for out in stage.get("outs", ())]
        return next(str(out["md5"]) for out in outs if out["path"] == OUT)
    except FileNotFoundError:
        raise ModelError(f"{lock}: there is no such file; `dvc repro` trains a model and pins it") from None
    except StopIteration:
        raise ModelError(f"{lock}: pins no {OUT}; run `dvc repro train`") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{lock}: not a lock file of DVC ({error}); `git checkout {lock}` restores it") from None
