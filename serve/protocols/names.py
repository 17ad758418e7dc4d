"""What a path may call the model: its name, and the one version that is live."""

from __future__ import annotations

from collections.abc import Mapping

from serve.protocols import BadInputError
from serve.protocols.rows import shown

VERSION = "1"  # the pin says by its md5 which model it is; who asks by number gets the one that is live
LABELS = ("champion", "stable")


def found(parameters: Mapping[str, str], model: str) -> None:
    """Raise BadInputError (404) where the parameters of a path name what is not served."""
    name, version, label = (parameters.get(key) for key in ("name", "version", "label"))
    if name is not None and name != model:
        raise BadInputError(f"there is no model {shown(name)}; this service has {model}", status=404)
    if version is not None and version != VERSION:
        raise BadInputError(f"{model} has no version {shown(version)}; the live one is {VERSION}", status=404)
    if label is not None and label not in LABELS:
        raise BadInputError(f"{model} has no label {shown(label)}; it has {', '.join(LABELS)}", status=404)
