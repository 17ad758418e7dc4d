"""HTML with headers that let nothing in but itself. Nothing is loaded from elsewhere, no script runs."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse

FOLDER = Path(__file__).parent
LINKS = (
    ("./", "Try it"),
    ("report", "Report"),
    ("drift", "Drift"),
    ("docs", "API"),
    ("model", "Signature"),
    ("metrics", "Metrics"),
)
NOTHING = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; img-src data:"
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def rendered(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page of ours, its values escaped."""
    text = _environment().get_template(template).render(style=_style(), links=LINKS, **values)
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    policy = f"{NOTHING}; style-src 'sha256-{digest}'; form-action 'self'"
    return HTMLResponse(text, status, {**HEADERS, "content-security-policy": policy})


def report(path: Path) -> HTMLResponse:
    """A report of the pipeline as it lies there: its own style and pictures, in a sandbox. Raises OSError."""
    policy = (
        f"{NOTHING}; style-src 'unsafe-inline'; form-action 'none'; sandbox allow-top-navigation-by-user-activation"
    )
    return HTMLResponse(path.read_bytes(), headers={**HEADERS, "content-security-policy": policy})


@cache
def _style() -> Any:
    from markupsafe import Markup

    return Markup((FOLDER / "style.css").read_text(encoding="utf-8"))


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(FOLDER)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
