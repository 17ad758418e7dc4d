"""What only who runs the service may do. Without PINWERK_ADMIN_TOKEN there is no such route."""

from __future__ import annotations

import hmac
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from serve.live import Live


def administer(app: FastAPI, token: str | None, live: Live) -> None:
    """Add `POST /admin/refresh`, where there is a token."""
    if token is None:
        return
    expected = f"Bearer {token}".encode()

    async def refresh(request: Request) -> JSONResponse:
        """Look at the pointer now and try again what has failed; answers what this process serves then."""
        given = dict(request.scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, expected):
            said = {"detail": "send `Authorization: Bearer TOKEN`, the token of PINWERK_ADMIN_TOKEN"}
            return JSONResponse(said, 401, {"www-authenticate": "Bearer"})
        await live.look()
        return JSONResponse({"variants": _said(live), "problems": live.problems})

    app.add_api_route("/admin/refresh", refresh, methods=["POST"])


def _said(live: Live) -> dict[str, Any]:
    return {
        name: {"md5": variant.predictor.md5, "since": variant.since, "pointer": variant.pointer}
        for name, variant in live.variants.items()
    }
