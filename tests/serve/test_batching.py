"""Requests that are there together are one inference; one that is alone does not wait; too many are turned away."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from serve.batching import ALONE, TOGETHER, Batcher, OverloadedError
from serve.runtime import Answers, Predictor, load
from stages.bundle import Rows, bundle_md5
from stages.errors import ModelError
from tests.serve.conftest import SIGNATURE, table


def rows(count: int, seed: int = 0) -> Rows:
    return Rows.of(table(count, seed=seed), SIGNATURE)


def ran(work: Callable[[Batcher], Coroutine[Any, Any, Any]], most: int = 1000) -> tuple[Any, Batcher]:
    batcher = Batcher(most)
    try:
        return asyncio.run(work(batcher)), batcher
    finally:
        batcher.close()


@pytest.fixture
def slow(small_bundle: Path, tmp_path: Path) -> Predictor:
    """A model that is not compiled."""
    copy = shutil.copytree(small_bundle, tmp_path / "model")
    (copy / "model.onnx").unlink()
    return load(copy, bundle_md5(copy))


@pytest.mark.parametrize("kind", ["predictor", "slow"])
def test_each_request_gets_the_answers_to_its_own_rows(kind: str, request: pytest.FixtureRequest) -> None:
    predictor: Predictor = request.getfixturevalue(kind)
    asked = [rows(1 + number % 3, seed=number) for number in range(40)]

    async def work(batcher: Batcher) -> list[Answers]:
        return await asyncio.gather(*(batcher.answers(predictor, one) for one in asked))

    answers, batcher = ran(work)
    for one, answer in zip(asked, answers, strict=True):
        assert answer == predictor.answers(one)
    assert len(batcher.sizes) < len(asked)
    assert sum(batcher.sizes) == sum(map(len, asked))
    assert batcher.depth == 0


def test_one_that_is_alone_is_answered_in_the_next_turn_of_the_loop(predictor: Predictor) -> None:
    async def work(batcher: Batcher) -> int:
        task = asyncio.ensure_future(batcher.answers(predictor, rows(1)))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert ran(work)[0] <= 3


def test_no_batch_is_larger_than_allowed_and_large_requests_go_alone(predictor: Predictor) -> None:
    async def work(batcher: Batcher) -> None:
        small = [batcher.answers(predictor, rows(ALONE, seed=n)) for n in range(10)]
        await asyncio.gather(*small, batcher.answers(predictor, rows(5000)))

    _, batcher = ran(work)
    assert sorted(batcher.sizes)[-1] == 5000
    assert all(size <= TOGETHER for size in sorted(batcher.sizes)[:-1])


def test_requests_beyond_the_limit_are_turned_away_and_the_others_answered(predictor: Predictor) -> None:
    async def work(batcher: Batcher) -> list[Any]:
        asked = (batcher.answers(predictor, rows(1, seed=n)) for n in range(12))
        return await asyncio.gather(*asked, return_exceptions=True)

    found, batcher = ran(work, most=8)
    assert [type(one) for one in found] == [Answers] * 8 + [OverloadedError] * 4
    assert batcher.depth == 0


class Picky(Predictor):
    """Fails on rows with size 13."""

    def answers(self, rows: Rows) -> Answers:
        if (rows.numeric[:, 0] == 13).any():
            raise ModelError("unlucky")
        return super().answers(rows)


@pytest.mark.parametrize("kind", ["predictor", "slow"])
def test_a_request_that_the_model_fails_on_does_not_fail_those_beside_it(
    kind: str, request: pytest.FixtureRequest
) -> None:
    sound: Predictor = request.getfixturevalue(kind)
    picky = Picky(sound.model, sound.md5)
    unlucky = rows(1)
    unlucky.numeric[0, 0] = 13

    async def work(batcher: Batcher) -> list[Any]:
        asked = [batcher.answers(picky, one) for one in (rows(1, 1), unlucky, rows(2, 2))]
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, third = ran(work)[0]
    assert isinstance(second, ModelError)
    assert first.labels == sound.answers(rows(1, 1)).labels
    assert third.labels == sound.answers(rows(2, 2)).labels


def test_a_client_that_goes_away_takes_nothing_with_it(predictor: Predictor) -> None:
    async def work(batcher: Batcher) -> Answers:
        gone = asyncio.ensure_future(batcher.answers(predictor, rows(1)))
        here = asyncio.ensure_future(batcher.answers(predictor, rows(1, 5)))
        await asyncio.sleep(0)
        gone.cancel()
        return await here

    answers, batcher = ran(work)
    assert answers == predictor.answers(rows(1, 5))
    assert batcher.depth == 0


def test_two_models_at_once_do_not_mix(predictor: Predictor, slow: Predictor) -> None:
    async def work(batcher: Batcher) -> list[Answers]:
        asked = [batcher.answers(model, rows(1, n)) for n in range(10) for model in (predictor, slow)]
        return await asyncio.gather(*asked)

    answers, batcher = ran(work)
    assert [a.labels for a in answers[::2]] == [a.labels for a in answers[1::2]]
    assert len(batcher.sizes) >= 2
