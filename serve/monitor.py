"""The metrics, for Prometheus.

With several workers set PROMETHEUS_MULTIPROC_DIR to a folder of this service, best in memory: each worker keeps its
numbers there, and whichever is asked adds them up. What a worker that died had counted stays until the service starts
anew. The series of a model that is gone are removed ten minutes later with one worker; with several they stay until the
service starts anew (prometheus_client cannot remove one), and its model_info is 0. Of a regression there is no
histogram of scores: the values have no common scale, and the prediction log has all of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from prometheus_client import Counter, Gauge

from serve.batching import Batcher
from serve.live import Live, Variant
from serve.predictions import Batch, Piece, PredictionLog
from serve.series import Bulk, Registry
from stages.bundle import Array, Rows, Signature

LATENCY = np.array([0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0])
SIZES = np.array([1.0, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 16384])
SCORES = np.array([0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0])
CLASSES = 20  # of a model with more, only the score of the class that it decides for is told, as class ""
GONE = 600.0  # seconds that the series of a replaced model stay
LOOK = 1.0  # seconds between two looks at what changes by itself
VARIANT = ("variant", "md5")


class Metrics:
    """Every metric there is, by its name."""

    def __init__(self, registry: Registry) -> None:
        own: dict[str, Any] = {"registry": registry.own}
        self.predictions = Counter("model_predictions_total", "Rows answered.", (*VARIANT, "protocol"), **own)
        self.latency = Bulk(
            "model_prediction_latency_seconds",
            "From the first byte of a request to the last of its answer.",
            (*VARIANT, "protocol"),
            buckets=LATENCY.tolist(),
            **own,
        )
        self.errors = Counter("model_errors_total", "Requests without an answer.", ("protocol", "kind"), **own)
        self.sizes = Bulk("model_batch_rows", "Rows in one inference.", buckets=SIZES.tolist(), **own)
        self.scores = Bulk("model_score", "Score of a class.", (*VARIANT, "class"), buckets=SCORES.tolist(), **own)
        self.missing = Counter("model_missing_values_total", "Missing values.", (*VARIANT, "column"), **own)
        self.unseen = Counter("model_unseen_categories_total", "Not in training.", (*VARIANT, "column"), **own)
        self.swaps = Counter("model_swaps_total", "Models that took the place of another.", ("variant",), **own)
        self.logged = Counter("model_log_records_total", "Predictions written to the log.", **own)
        self.lost = Counter("model_log_lost_records_total", "Predictions that are not in the log.", ("reason",), **own)
        self.dropped = Counter("model_log_dropped_files_total", "Log files removed.", ("reason",), **own)
        gauge: dict[str, Any] = {**own, "multiprocess_mode": "livemax"}
        self.depth = Gauge("model_queue_depth", "Requests at work or waiting.", multiprocess_mode="livesum", **own)
        labels = (*VARIANT, "model", "data", "task", "commit", "compiled")
        self.info = Gauge("model_info", "1: serves; 0: was replaced.", labels, **gauge)
        self.since = Gauge("model_serving_since_timestamp_seconds", "When a variant was loaded.", ("variant",), **gauge)
        self.looked = Gauge(
            "model_pointer_looked_timestamp_seconds",
            "The last look at the pointer that ended well, of the worker where it is longest ago.",
            multiprocess_mode="livemin",
            **own,
        )
        self.age = Gauge("model_pointer_age_seconds", "Since that look.", **gauge)
        self.problem = Gauge("model_problem", "1: see /ready and the log.", ("variant",), **gauge)

    def forget(self, name: str, md5: str) -> None:
        """Remove the series of a model."""
        gone = {"variant": name, "md5": md5}
        for metric in (self.predictions, self.latency, self.scores, self.missing, self.unseen, self.info):
            metric.remove_by_labels(gone)


class Series:
    """The series of one model under one name."""

    def __init__(self, metrics: Metrics, variant: Variant) -> None:
        self.metrics, self.signature = metrics, variant.predictor.signature
        self.labels = (variant.name, variant.predictor.md5)
        self.known = [frozenset(_categories(self.signature, name)) for name in self.signature.text]
        self._protocols: dict[str, tuple[Any, Any]] = {}
        self._scores: dict[Any, Any] = {}

    def protocol(self, name: str) -> tuple[Any, Any]:
        """The counter and the latency for a protocol."""
        found = self._protocols.get(name)
        if found is None:
            labels = (*self.labels, name)
            found = self.metrics.predictions.labels(*labels), self.metrics.latency.labels(*labels)
            self._protocols[name] = found
        return found

    def count(self, protocol: str, pieces: Sequence[Piece]) -> None:
        """Requests of one protocol."""
        counter, latency = self.protocol(protocol)
        counter.inc(sum(stop - start for _, start, stop in pieces))
        times = np.array([event.seconds for event, start, _ in pieces if not start])  # once a request
        latency.observe_counts(counted(times, LATENCY), float(times.sum()))

    def inputs(self, rows: Rows) -> None:
        """Missing values and categories that were not there in training, by column."""
        lacking = np.isnan(rows.numeric).sum(axis=0)
        if lacking.any():
            self._add(self.metrics.missing, self.signature.numeric, lacking.tolist())
        for name, known, values in zip(self.signature.text, self.known, rows.text.T.tolist(), strict=True):
            strange = [value for value in values if value not in known]
            if strange:
                empty = strange.count("")
                self._add(self.metrics.missing, (name,), (empty,))
                self._add(self.metrics.unseen, (name,), (len(strange) - empty,))

    def outputs(self, scores: Array) -> None:
        """n x k scores."""
        classes = self.signature.classes or ()
        if len(classes) > CLASSES:
            self._scored("", scores.max(axis=1))
        elif self.signature.task == "binary":
            self._scored(classes[1], scores[:, 1])
        else:
            for place, name in enumerate(classes):
                self._scored(name, scores[:, place])

    def _scored(self, name: Any, scores: Array) -> None:
        child = self._scores.get(name)
        if child is None:
            child = self._scores[name] = self.metrics.scores.labels(*self.labels, name)
        child.observe_counts(counted(scores, SCORES), float(scores.sum()))

    def _add(self, metric: Counter, names: Sequence[str], counts: Sequence[int]) -> None:
        for name, count in zip(names, counts, strict=True):
            if count:
                metric.labels(*self.labels, name).inc(count)


class Monitor:
    """The metrics of this process. On the event loop. problems: what is wrong with the prediction log."""

    def __init__(self, live: Live, batcher: Batcher, predictions: PredictionLog) -> None:
        self.registry = Registry()
        self.metrics = Metrics(self.registry)
        self.live, self.batcher, self.predictions = live, batcher, predictions
        self._series: dict[tuple[str, str], Series] = {}
        self._variants: dict[str, Variant] = {}
        self._gone: dict[tuple[str, str], float] = {}  # since when, seconds of the monotonic clock
        self._told: dict[tuple[str, str], int] = {}
        self.problems: dict[str, str] = {}
        self._problems: set[str] = set()
        self._looked = 0.0

    def count(self, batch: Batch) -> None:
        """Requests that were answered. About 1 µs each where there are many."""
        series = self._of(batch.variant)
        protocols: dict[str, list[Piece]] = {}
        for piece in batch.pieces:
            protocols.setdefault(piece[0].protocol, []).append(piece)
        for protocol, pieces in protocols.items():
            series.count(protocol, pieces)
        series.inputs(batch.rows)
        if batch.variant.predictor.signature.classes is not None:
            scores = [row for event, start, stop in batch.pieces for row in event.answers.scores[start:stop]]
            series.outputs(np.array(scores).reshape(len(scores), -1))

    def refused(self, protocol: str, kind: str) -> None:
        """A request was not answered."""
        self.metrics.errors.labels(protocol, kind).inc()

    def look(self) -> None:
        """What changed by itself: models at once, the rest once a second."""
        if self.live.variants is not self._variants:
            self._changed(self.live.variants)
        if (now := time.monotonic()) - self._looked >= LOOK:
            self._looked = now
            self._refresh(now)

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all workers as they are now, and their content type."""
        self.look()
        self._refresh(time.monotonic())
        return await asyncio.to_thread(self.registry.page, accept)

    def close(self) -> None:
        """This process ends."""
        self._refresh(time.monotonic())
        self.registry.close()

    def _of(self, variant: Variant) -> Series:
        key = (variant.name, variant.predictor.md5)
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = Series(self.metrics, variant)
            if self._variants.get(variant.name) is not variant:
                self._gone[key] = time.monotonic()  # its last requests came after it was replaced
        return found

    def _changed(self, variants: dict[str, Variant]) -> None:
        for name, old in self._variants.items():
            if variants.get(name) is not old:
                self.metrics.info.labels(*_told(old)).set(0)
                self._gone[(name, old.predictor.md5)] = time.monotonic()
        for name, new in variants.items():
            if name in self._variants and self._variants[name] is not new:
                self.metrics.swaps.labels(name).inc()
            self.metrics.swaps.labels(name)
            self.metrics.info.labels(*_told(new)).set(1)
            self.metrics.since.labels(name).set(new.since)
            self._gone.pop((name, new.predictor.md5), None)
            self._of(new).protocol("native")  # so that a rate has a beginning
        self._variants = variants

    def _refresh(self, now: float) -> None:
        metrics, live = self.metrics, self.live
        metrics.depth.set(self.batcher.depth)
        metrics.looked.set(live.looked)
        metrics.age.set(time.time() - live.looked if live.looked else float("inf"))
        self._sizes()
        self._log()
        problems = self._wrong()
        for name in problems | self._problems:
            metrics.problem.labels(name).set(name in problems)
        self._problems |= problems | {"pointer"}
        self.registry.bury()
        for key in [key for key, since in self._gone.items() if now - since > GONE]:
            del self._gone[key]
            self._series.pop(key, None)
            if self.registry.folder is None:
                metrics.forget(*key)

    def _wrong(self) -> set[str]:
        """What there is a problem with: the pointer, a variant, the log."""
        said = [
            form.said
            for variant in self._variants.values()
            if (form := self.predictions.form(variant.predictor.md5, variant.predictor.signature)).said
        ]
        if said and self.predictions.config.enabled:
            self.problems = {"log": str(said[0])}
        elif self.predictions.journal.problem is not None:
            self.problems = {"log": "predictions cannot be written; the log of the service says why"}
        else:
            self.problems = {}
        return set(self.live.problems) | set(self.problems)

    def _sizes(self) -> None:
        sizes = self.batcher.sizes
        if sizes:
            self.metrics.sizes.observe_counts(counted(np.array(sizes), SIZES), sum(sizes))
            sizes.clear()

    def _log(self) -> None:
        log = self.predictions
        self._add(self.metrics.logged, ("written", ""), log.written)
        for reason, count in log.lost.items():
            self._add(self.metrics.lost.labels(reason), ("lost", reason), count)
        for reason, count in log.journal.dropped.items():
            self._add(self.metrics.dropped.labels(reason), ("dropped", reason), count)

    def _add(self, counter: Counter, key: tuple[str, str], count: int) -> None:
        """Bring a counter up to what somebody else counts."""
        counter.inc(count - self._told.get(key, 0))
        self._told[key] = count


def counted(values: Array, bounds: Array) -> list[int]:
    """How many values are in each bucket: up to and with its bound, and above the last."""
    counts: list[int] = np.bincount(np.searchsorted(bounds, values), minlength=len(bounds) + 1).tolist()
    return counts


def _categories(signature: Signature, name: str) -> tuple[str, ...]:
    return next(column.categories or () for column in signature.columns if column.name == name)


def _told(variant: Variant) -> tuple[str, ...]:
    """The labels of model_info. An adopted model's origin may lack any of it."""
    model = variant.predictor.model
    origin = model.provenance
    params = origin.get("params") or {}
    kind = str((params.get("model") or {}).get("_target_", "")).rpartition(".")[2]
    data = str((params.get("data") or {}).get("name", ""))
    commit = str((origin.get("git") or {}).get("commit") or "")
    name, md5 = variant.name, variant.predictor.md5
    return name, md5, kind, data, model.signature.task, commit, str(model.compiled).lower()
