"""The web page: what is live, a form to try it, the reports. Server-rendered HTML that works without JavaScript."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse

from serve.batching import OverloadedError
from serve.examples import typical_row, usual_rows
from serve.exchange import Answered, Exchange, RefusedError
from serve.live import Variant
from serve.page.answer import Told, place_of, told
from serve.page.form import Field, fields_of, filled
from serve.page.rendering import rendered, report
from serve.runtime import influences
from stages.bundle import Rows
from stages.errors import ModelError

REPORTS = {"report": Path("data/reports/report.html"), "drift": Path("data/reports/drift/drift.html")}
STAGES = {"report": "evaluate", "drift": "drift"}
NAME = "page"


class Page:
    """The routes of people, as the others are those of programs."""

    def __init__(self, exchange: Exchange, key_asked: bool) -> None:
        self._exchange = exchange
        self._key_asked = key_asked

    def mount(self, app: FastAPI) -> None:
        """Add the routes."""
        app.add_api_route("/", self.show, methods=["GET"], include_in_schema=False)
        app.add_api_route("/", self.answer, methods=["POST"], include_in_schema=False)
        app.add_api_route("/report", self.report, methods=["GET"], include_in_schema=False)
        app.add_api_route("/drift", self.report, methods=["GET"], include_in_schema=False)

    async def show(self) -> HTMLResponse:
        """What is live, and the form with a typical row."""
        champion = self._exchange.live.champion
        if champion is None:
            return self._page(503)
        predictor = champion.predictor
        return self._page(fields=fields_of(predictor.signature, typical_row(predictor)))

    async def answer(self, request: Request) -> HTMLResponse:
        """The form as it was sent, with its answer."""
        started = time.perf_counter()
        fields: list[Field] = []
        try:
            form = await _form(request, self._exchange.limits.bytes)
            variant = self._exchange.variant()
            fields, row = filled(form, variant.predictor.signature)
            self._exchange.authorized({b"x-api-key": form.get("key", "").encode()})
            if row is None:
                self._refused("bad_input")
                return self._page(422, fields=fields, refused="Correct the fields that are marked, and try again.")
            return self._page(fields=fields, answer=await self._told(variant, row, fields, started))
        except RefusedError as error:
            self._refused(error.kind)
            said = (
                "This is not the API key."
                if error.status == 401
                else f"{error.message[:1].upper()}{error.message[1:]}."
            )
            return self._page(error.status, fields=fields, refused=said)

    async def _told(self, variant: Variant, row: Rows, fields: list[Field], started: float) -> Told:
        predictor, batcher = variant.predictor, self._exchange.batcher
        try:
            answers = await batcher.answers(predictor, row)
            name = self._exchange.new_id()
            event = Answered(name, time.time_ns(), variant, NAME, row, answers, time.perf_counter() - started, None)
            for observer in self._exchange.observers:
                observer.answered(event)
            place = place_of(answers, predictor.signature)
            falls = await batcher.apart(lambda: influences(predictor, row, usual_rows(predictor), place))
        except OverloadedError:
            raise RefusedError(503, "overloaded", "too many requests are waiting; try again in a second") from None
        except ModelError:
            raise RefusedError(500, "failed", "the model cannot answer this row") from None
        return told(answers, falls, fields, variant, name)

    async def report(self, request: Request) -> HTMLResponse:
        """A report that the pipeline wrote, where there is one."""
        name = request.url.path.rpartition("/")[2]
        try:
            return report(REPORTS[name])
        except OSError:
            return rendered("absent.html.j2", 404, here=name, what=name, stage=STAGES[name])

    def _refused(self, kind: str) -> None:
        for observer in self._exchange.observers:
            observer.refused(NAME, kind)

    def _page(
        self, status: int = 200, fields: list[Field] | None = None, answer: Told | None = None, refused: str = ""
    ) -> HTMLResponse:
        live = self._exchange.live
        target = live.champion.predictor.signature.target if live.champion else ""
        return rendered(
            "page.html.j2",
            status,
            here="./",
            heading=f"The model for {target}" if target else "No model yet",
            target=target,
            problems=live.problems,
            variants=[_shown(variant) for variant in live.variants.values()],
            looked=_moment(live.looked) if live.looked else None,
            fields=fields or [],
            key_asked=self._key_asked,
            answer=answer,
            refused=refused,
        )


async def _form(request: Request, most: int) -> dict[str, str]:
    """The fields of a form. Raises RefusedError for one that is too large or none."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise RefusedError(413, "bad_input", "the form is too large", ((b"connection", b"close"),))
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=10_000)
    except ValueError:
        raise RefusedError(400, "bad_input", "this is not a form of this page") from None
    return dict(pairs)


def _shown(variant: Variant) -> dict[str, Any]:
    moment = _moment(variant.since)
    return {
        "name": variant.name,
        "md5": variant.predictor.md5,
        "kind": "compiled" if variant.predictor.quick else "answered by scikit-learn",
        "since": moment["text"],
        "since_iso": moment["iso"],
        "pointer": variant.pointer,
        "origin": _origin(variant.predictor.model.provenance),
    }


def _origin(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the bundle says of where it comes from, as far as it does."""
    params = provenance.get("params") or {}
    commit = (provenance.get("git") or {}).get("commit")
    estimator = str((params.get("model") or {}).get("_target_", "")).rpartition(".")[2]
    data = (params.get("data") or {}).get("name")
    md5s = ", ".join(f"{path} {str(md5)[:8]}" for path, md5 in (provenance.get("data") or {}).items())
    said = {"Estimator": estimator, "Data": f"{data} ({md5s})" if data and md5s else data or md5s, "Commit": commit}
    said["Graph"] = provenance.get("compiled")
    return [(name, str(text)) for name, text in said.items() if text]


def _moment(seconds: float) -> dict[str, str]:
    moment = datetime.fromtimestamp(seconds, UTC)
    return {"iso": moment.isoformat(timespec="seconds"), "text": f"{moment:%Y-%m-%d %H:%M:%S} UTC"}
