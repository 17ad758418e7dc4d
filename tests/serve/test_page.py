"""The page in a real browser: without JavaScript, on a phone, by keyboard, in the dark."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, sync_playwright

from serve.runtime import Predictor
from stages.bundle import bundle_md5
from tests.serve.conftest import write_small_bundle
from tests.serve.running import Service, lay_out, pin, running

SIGHT = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
ROW = {"f:size": "0.5", "f:weight": "1", "f:colour": "red"}
Opened = Callable[..., Page]


@pytest.fixture(scope="module")
def service(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = lay_out(tmp_path_factory.mktemp("page") / "home", small_bundle)
    with running(home, tmp_path_factory.mktemp("scratch")) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no chromium on this machine; Debian's package `chromium` is what CI takes")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, service: Service) -> Iterator[Opened]:
    """opened(path): that page; fails for anything that the browser complains of or that is asked of another host."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_(path: str = "/", width: int = 1200, scheme: str = "light", scripts: bool = False) -> Page:
        contexts.append(
            browser.new_context(
                viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=scripts
            )
        )
        page: Page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda one: one.url.startswith((service.url, "data:")) or complaints.append(one.url))
        page.goto(service.url + path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


def test_a_row_typed_into_the_form_gets_the_answer_of_the_model_in_words(opened: Opened, predictor: Predictor) -> None:
    page = opened()
    page.get_by_label("size").fill("0.5")
    page.get_by_label("weight").fill("2")
    page.get_by_label("colour").fill("a colour never seen")
    page.get_by_role("button", name="Predict").click()
    assert page.locator(".said").inner_text() == "a"
    assert page.get_by_label("colour").input_value() == "a colour never seen"
    shares = page.get_by_role("table").first.locator("tr").all_inner_texts()
    assert [share.split()[0] for share in shares] == ["a", "b", "c"]
    moved = page.locator(".moved tr").first.inner_text()
    assert re.search(r"weight = 2\s+raises it by [\d.]+ percentage points", moved)
    assert predictor.md5 in (page.locator(".answer .md5").text_content() or "")


def test_the_form_starts_with_a_row_that_can_be_sent_as_it_is_and_shows_what_a_feature_is(opened: Opened) -> None:
    page = opened()
    size = page.get_by_label("size")
    assert -3 <= float(size.input_value()) <= 3
    described = page.locator(f"#{size.get_attribute('aria-describedby')}")
    assert described.inner_text() == "-3 to 3 cm; may be empty"
    offered = page.locator(f"#{page.get_by_label('colour').get_attribute('list')} option")
    assert [option.get_attribute("value") for option in offered.all()] == ["blue", "red"]
    page.get_by_role("button", name="Predict").click()
    assert page.locator(".said").inner_text() in ("a", "b", "c")


def test_the_page_says_what_is_live_and_where_it_comes_from(opened: Opened, predictor: Predictor) -> None:
    said = opened().get_by_role("region", name="champion")
    assert said.locator(".md5").get_attribute("title") == predictor.md5
    text = said.inner_text()
    assert re.search(r"Since\s+20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", text)
    assert "dvc.lock" in text
    assert "tests" in text


def test_the_keyboard_reaches_everything_and_one_sees_where_it_is(opened: Opened) -> None:
    page = opened()
    seen = []
    for _ in range(12):  # all that there is to reach
        page.keyboard.press("Tab")
        focused = page.locator(":focus-visible")
        assert focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
        seen.append(focused.get_attribute("name") or focused.inner_text())
    assert seen[:4] == ["Skip to the content", "from where", "Try it", "Report"]
    assert {"f:size", "f:weight", "f:colour", "Predict"} <= set(seen)
    page.get_by_label("colour").press("Enter")
    page.locator(".said").wait_for()


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_phone_shows_it_without_scrolling_sideways(opened: Opened, path: str) -> None:
    page = opened(path, width=375)
    if path == "/":
        page.get_by_role("button", name="Predict").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 375


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_text_has_contrast_and_inputs_have_labels(opened: Opened, path: str, scheme: str) -> None:
    page = opened(path, scheme=scheme)
    if path == "/":
        page.get_by_role("button", name="Predict").click()
        page.locator(".said").wait_for()
    assert page.evaluate(SIGHT) == []


def test_what_is_wrong_stands_at_its_field_and_nothing_typed_is_lost(service: Service) -> None:
    answer = service.ask("/", urlencode({**ROW, "f:weight": "<b>wide", "f:colour": "re\"d'"}).encode())
    page = answer.body.decode()
    assert answer.status == 422
    assert "weight is &#39;&lt;b&gt;wide&#39;; expected a number" in page
    assert 'value="re&#34;d&#39;"' in page
    assert page.count('aria-invalid="true"') == 1
    assert "<b>wide" not in page


@pytest.mark.parametrize("body", [b"", b"\xff=%zz", b"a=1&" * 20_000, b"f:size=%ff", b"{}"])
def test_what_is_no_form_of_the_page_is_refused_and_never_an_error_of_ours(service: Service, body: bytes) -> None:
    answer = service.ask("/", body)
    assert answer.status in (200, 400, 422)
    assert b"</html>" in answer.body


def test_the_headers_let_nothing_in_but_the_page_itself(service: Service) -> None:
    for path in ("/", "/docs", "/report"):
        headers = service.ask(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_the_reports_of_the_pipeline_are_shown_in_a_sandbox_and_missing_ones_say_so(service: Service) -> None:
    assert service.ask("/drift").status == 404
    assert b"dvc repro drift" in service.ask("/drift").body
    folder = service.home / "data/reports"
    folder.mkdir(exist_ok=True)
    (folder / "report.html").write_text("<!doctype html><script>1</script>")
    answer = service.ask("/report")
    (folder / "report.html").unlink()
    assert (answer.status, answer.body) == (200, b"<!doctype html><script>1</script>")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]


def test_a_page_of_nothing_yet_and_of_a_broken_pin_says_so(small_bundle: Path, tmp_path: Path) -> None:
    home = lay_out(tmp_path / "home", None)
    with running(home, tmp_path) as service:
        empty = service.ask("/")
        assert empty.status == 503
        assert b"No model is loaded yet" in empty.body
        assert service.ask("/", urlencode(ROW).encode()).status == 503
        assert b"No model is loaded yet" in service.ask("/docs").body
        shutil.copytree(small_bundle, home / "data/model")
        pin(home, bundle_md5(small_bundle))
        _until(lambda: service.ask("/").status == 200)
        pin(home, "0" * 32 + ".dir")
        _until(lambda: b"The last good model keeps answering" in service.ask("/").body)
        assert b'class="said"' in service.ask("/", urlencode(ROW).encode()).body


def test_the_form_gives_no_prediction_without_the_key(small_bundle: Path, tmp_path: Path) -> None:
    home = lay_out(tmp_path / "home", small_bundle)
    with running(home, tmp_path, PINWERK_API_KEY="secret") as service:
        assert b'type="password"' in service.ask("/").body
        refused = service.ask("/", urlencode({**ROW, "key": "guess"}).encode())
        assert refused.status == 401
        assert b'class="said"' not in refused.body
        assert b'class="said"' in service.ask("/", urlencode({**ROW, "key": "secret"}).encode()).body


def test_the_page_follows_a_swap(tmp_path: Path, small_bundle: Path) -> None:
    home = lay_out(tmp_path / "home", small_bundle)
    with running(home, tmp_path) as service:
        shutil.rmtree(home / "data/model")
        md5 = write_small_bundle(home / "data/model", seed=5)
        pin(home, md5)
        _until(lambda: md5.encode() in service.ask("/").body)
        assert md5.encode() in service.ask("/openapi.json").body


def _until(true: Callable[[], bool]) -> None:
    for _ in range(200):
        if true():
            return
        time.sleep(0.1)
    pytest.fail("it did not come true in 20 s")
