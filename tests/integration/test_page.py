"""The page of a recorded session in a real browser: what can be clicked works, and what a stranger wrote does not."""

from __future__ import annotations

import base64
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.client.outputs import CellError, DisplayData, ExecuteResult, StreamText
from daytona_kernel_interp.page.html import to_html
from daytona_kernel_interp.recording.model import (
    Entry,
    Outcome,
    RecordedCall,
    SessionFacts,
    Transcript,
    Usage,
    ValueRef,
)
from daytona_kernel_interp.wire.comm import ToolSpec
from tests import sessions
from tests.browser import browser as running_browser

expect = pytest.importorskip("playwright.sync_api", reason="needs the package playwright").expect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Dialog, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


class Opened:
    """A page with what went wrong on it, and what it asked for."""

    def __init__(self, browser: Browser, path: Path, html: str, wait_until: Any = "load", **context: Any) -> None:
        path.write_text(html, encoding="utf-8")
        self._context = browser.new_context(viewport={"width": 1300, "height": 900}, **context)
        self._context.set_default_timeout(15_000)
        self.requests: list[str] = []
        self.refused: dict[str, str | None] = {}  # what the browser itself did not let out, and why
        self.noise: list[str] = []
        self._context.on("request", lambda request: self.requests.append(request.url))
        self._context.on("requestfailed", lambda request: self.refused.update({request.url: request.failure}))
        self._context.on("dialog", self._dismiss)
        self._context.on("console", lambda message: self.noise.append(message.text))
        self.page = self._context.new_page()
        self.page.on("pageerror", lambda error: self.noise.append(str(error)))
        self.url = path.absolute().as_uri()
        self.page.goto(self.url, wait_until=wait_until)

    def close(self) -> None:
        self._context.close()

    def _dismiss(self, dialog: Dialog) -> None:
        self.noise.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@pytest.fixture
def small(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    opened = Opened(browser, tmp_path / "small.html", to_html(sessions.small(), "run.ipynb"), color_scheme="light")
    yield opened.page
    asked, noise = opened.requests, opened.noise
    opened.close()
    assert set(asked) == {opened.url}
    assert noise == []


@pytest.fixture(scope="module")
def long(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    path = tmp_path_factory.mktemp("page") / "long.html"
    opened = Opened(browser, path, to_html(sessions.long(60, 3), "long.ipynb"))
    yield opened.page
    opened.close()


def _background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def _visible_steps(page: Page) -> list[str]:
    return list(page.locator("details.step:not([hidden])").evaluate_all("steps => steps.map(step => step.id)"))


def test_it_says_what_happened(small: Page) -> None:
    """The page has the sums, the answer, each step's code, reasoning, outputs, figure and table, and what failed."""
    assert small.title() == "run.ipynb"
    tiles = " ".join(small.locator(".tiles").inner_text().split())
    assert "steps 5 1 failed" in tiles
    assert "tokens 17,200" in tiles
    assert "cost $0.0080" in tiles
    assert "The customer pays." in small.locator("section.answer").inner_text()
    first = small.locator("#s0")
    assert "sections = re.split" in first.locator(".source").inner_text()
    assert first.locator(".reasoning strong").inner_text() == "look"
    assert first.locator(".outputs").inner_text().split()[1:] == ["51,200", "characters", "38"]
    assert small.locator("#s2 .state").inner_text() == "ZeroDivisionError"
    figure = small.locator("#s3 figure img")
    figure.scroll_into_view_if_needed()
    assert figure.evaluate("image => image.naturalWidth") == 240
    table = small.frame_locator("#s3 iframe").locator("table")
    assert table.inner_text().split() == ["name", "score", "a", "1.5"]
    assert "score" in small.locator("#s4 .answer").inner_text()
    assert "never answered" in small.locator("#s4 .called").inner_text()


def test_calls_at_once_lie_beside_each_other(small: Page) -> None:
    """Calls that ran together have bars in different lanes that overlap in time; a click on one opens its details."""
    bars = small.locator("section.timeline rect.tool")
    boxes = bars.evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().toJSON())")
    assert len({box["top"] for box in boxes}) == 3
    assert max(box["left"] for box in boxes) < min(box["right"] for box in boxes)
    assert small.locator("#s1 .chart rect.bar").count() == 4
    details = small.locator("#s1-3")
    assert details.get_attribute("open") is None
    small.locator('section.timeline a[href="#s1-3"] rect').click()
    assert details.get_attribute("open") is not None
    assert "KeyError: 'nowhere'" in details.inner_text()
    assert "raised" in details.inner_text()


def test_a_call_opens(small: Page) -> None:
    """A call shows its named arguments, result, model, tokens, cost and start time."""
    details = small.locator("#s1-4")
    details.locator("summary").click()
    shown = details.locator(".body").inner_text()
    for wanted in (
        "prompt",
        "Which one?",
        "returned",
        "refunds",
        sessions.MODEL,
        "410 in / 35 out",
        "$0.0002",
        "1.7 s",
    ):
        assert wanted in shown


def test_look_changes(small: Page, browser: Browser, tmp_path: Path) -> None:
    """The look is the system's, until it is switched; then that is remembered."""
    light = _background(small)
    small.locator("#theme").click()
    dark = _background(small)
    assert light != dark
    small.reload()
    assert _background(small) == dark
    small.keyboard.press("t")
    assert _background(small) == light
    other = Opened(browser, tmp_path / "dark.html", to_html(sessions.small(), "x"), color_scheme="dark")
    assert _background(other.page) == dark
    other.close()


def test_keys_do_what_the_mouse_does(small: Page) -> None:
    """Steps, timeline zoom and the list of keys can be used without a mouse."""
    small.keyboard.press("j")
    small.keyboard.press("j")
    assert small.evaluate("document.activeElement.parentElement.id") == "s1"
    small.keyboard.press("Enter")
    assert small.locator("#s1").get_attribute("open") is None
    small.keyboard.press("k")
    assert small.evaluate("document.activeElement.parentElement.id") == "s0"
    small.keyboard.press("e")
    assert small.locator("details.step[open]").count() == 5
    small.keyboard.press("e")
    assert small.locator("details.step[open]").count() == 0
    chart = small.locator("section.timeline .scroll > svg")
    width = chart.evaluate("svg => svg.clientWidth")
    small.keyboard.press("+")
    assert chart.evaluate("svg => svg.clientWidth") == 2 * width
    small.keyboard.press("0")
    assert chart.evaluate("svg => svg.clientWidth") == width
    small.keyboard.press("?")
    assert small.locator("dialog").is_visible()
    small.keyboard.press("Escape")
    assert not small.locator("dialog").is_visible()


def test_many_steps_are_found(long: Page) -> None:
    """In a long session steps are closed; search finds places in them, opens the first, and goes on with Enter."""
    assert long.locator("details.step[open]").count() == 0
    long.locator("nav.rail a").nth(40).click()
    assert long.locator("#s40").get_attribute("open") is not None
    long.keyboard.press("/")
    long.keyboard.type("Answer 2 of step 3")
    found = long.locator("#found")
    expect(found).to_have_text("1 of 11 in 11 of 60 steps")  # 3 and 30 to 39
    assert _visible_steps(long) == ["s3", *(f"s{n}" for n in range(30, 40))]
    assert long.locator("#s3-11").get_attribute("open") is not None  # the call that has it
    assert long.evaluate("CSS.highlights.get('hit').size") == 11
    long.keyboard.press("Enter")
    assert found.inner_text().startswith("2 of 11")
    assert long.locator("#s30").get_attribute("open") is not None
    long.keyboard.press("Escape")
    assert len(_visible_steps(long)) == 60
    assert found.inner_text() == ""


def test_search_crosses_colours(long: Page) -> None:
    """Code is found although its colours divide it, and in whatever case it is asked for."""
    long.locator("#search").fill("ITEM FOR item in items")
    expect(long.locator("#found")).to_have_text("1 of 1200 in 60 of 60 steps")
    long.locator("#search").fill("no such text anywhere")
    expect(long.locator("#found")).to_have_text("0 of 60 steps")
    assert long.locator(".empty.none").is_visible()
    long.locator("#search").press("Escape")


def test_steps_are_filtered(long: Page) -> None:
    """Only the failed steps are shown when these are asked for; a link to another one shows all again."""
    long.locator("#filter").select_option("failed")
    assert _visible_steps(long) == ["s5", "s22", "s39", "s56"]
    long.evaluate("location.hash = '#s7'")
    expect(long.locator("#s7[open]")).to_be_visible()
    assert len(_visible_steps(long)) == 60


# --- a stranger's -------------------------------------------------------------------------------------


def _payloads(port: int) -> list[str]:
    """What would set a flag, speak up or connect to ``port``, wherever it were taken for markup."""
    there = f"http://127.0.0.1:{port}"
    shout = "window.PWNED=1;console.log('PWNED');alert('PWNED')"
    return [
        f"<script>{shout}</script>",
        f"</script><script>{shout}</script>",
        f"</textarea></title></style></pre></iframe><script>{shout}</script>",
        f'"\'><img src=x onerror="{shout}"><img src={there}/a>',
        f'<svg onload="{shout}"><script>{shout}</script><image href={there}/b></svg>',
        f'<iframe src="javascript:{shout}"></iframe><iframe src={there}/c></iframe>',
        f"<link rel=stylesheet href={there}/d><link rel=preconnect href={there}><link rel=prefetch href={there}/e>",
        f'<meta http-equiv=refresh content="0;url={there}/f"><base href="{there}/">',
        f"<style>@import '{there}/g'; body{{background:url({there}/h)}}</style><p style='background:url({there}/i)'>",
        f"<script src={there}/j></script><object data={there}/k></object><video src={there}/l></video>",
        f'<details open ontoggle="{shout}"><form action={there}/m><input autofocus onfocus="{shout}">',
        f"[click](javascript:{shout}) ![x]({there}/n) <javascript:{shout}> [a]: javascript:{shout}",
        "{{ 7 * 7 }}{% for x in y %}",
    ]


def _hostile(port: int) -> Transcript:
    """A session whose every text is an attack."""
    store = sessions.MemoryStore()
    entries = []
    for index, evil in enumerate(_payloads(port)):
        svg = f"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'>{evil}</svg>"
        shown: list[dict[str, Any]] = [
            {"text/html": f"<p>seen</p>{evil}", "text/plain": evil},
            {"image/svg+xml": svg},
            {"image/svg+xml": evil},
            {"image/png": base64.b64encode(evil.encode()).decode(), "text/markdown": evil},
            {"text/markdown": evil},
            {"application/javascript": evil, "application/json": {evil: evil}, "text/plain": evil},
        ]
        call = sessions.call(store, 1, evil, 0.1, 1.0, evil, kind="llm", result=evil, usage=Usage(evil, 1, 1, 1.0))
        entries.append(
            Entry(
                index,
                evil,
                evil,
                sessions.BEGAN,
                Outcome("submitted", "ok", value=store.put({evil: evil}))
                if index % 2
                else Outcome("raised", "error", None, evil, evil),
                variables={evil: ValueRef("0" * 64, 1, evil)},
                tools=[ToolSpec(evil)],
                output_fields=[{"name": evil, "type": evil}],
                outputs=[
                    *(DisplayData(data, {}) for data in shown),
                    ExecuteResult({"text/plain": evil}, {}),
                    StreamText("stdout", evil),
                    CellError(evil, evil, evil),
                ],
                calls=[call, replace(call, id=2, result=None, error=(evil, (evil,), evil))],
                elapsed_s=2.0,
                late=evil,
                reasoning=evil,
                usage=Usage(evil),
            )
        )
    evil = _payloads(port)[1]
    facts = SessionFacts(evil, sessions.BEGAN, evil, {evil: evil}, {evil: evil}, {})
    return Transcript(facts, entries, store, problems=_payloads(port))


def _see_everything(page: Page) -> None:
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    for number in range(page.locator("iframe").count()):
        frame = page.locator("iframe").nth(number)
        frame.scroll_into_view_if_needed()
        content = frame.element_handle().content_frame()
        assert content is not None
        content.wait_for_load_state("load")


def test_a_strangers_page_does_nothing(browser: Browser, tmp_path: Path) -> None:
    """No script of a hostile recording runs, nothing leaves the browser, not even a connection, and all is readable."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        title = _payloads(port)[2]
        opened = Opened(browser, tmp_path / "hostile.html", to_html(_hostile(port), title))
        page = opened.page
        _see_everything(page)
        page.locator("#search").fill("PWNED")
        expect(page.locator("#found")).to_contain_text("steps")
        page.keyboard.press("Enter")
        assert page.evaluate("typeof window.PWNED") == "undefined"
        assert [frame.url for frame in page.frames[1:]] == ["about:srcdoc"] * (len(page.frames) - 1)
        assert len(page.frames) == 1 + len(_payloads(port))
        assert page.title() == title
        assert page.locator("#s0 .source pre").inner_text() == _payloads(port)[0]
        let_out = [url for url in opened.requests if not url.startswith("data:") and url not in opened.refused]
        assert let_out == [opened.url]
        assert {url for url, why in opened.refused.items() if why != "csp" and url.startswith("http")} == set()
        assert [line for line in opened.noise if line in ("PWNED", "dialog: PWNED")] == []
        opened.close()
        _assert_first_visitor(browser, server)


def test_the_attacks_are_real(browser: Browser, tmp_path: Path) -> None:
    """The same texts in a page that escapes nothing do set the flag and do connect."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(15)
        naive = "<!doctype html>" + "".join(_payloads(server.getsockname()[1])[:5])
        opened = Opened(browser, tmp_path / "naive.html", naive, "commit")
        server.accept()[0].close()
        opened.page.wait_for_function("window.PWNED === 1")
        assert {"PWNED", "dialog: PWNED"} <= set(opened.noise)
        opened.close()


def _assert_first_visitor(browser: Browser, server: socket.socket) -> None:
    """``server`` has no earlier connection, so the next one is first in its queue."""
    server.settimeout(15)
    context = browser.new_context()
    page = context.new_page()
    page.evaluate(
        f"void fetch('http://127.0.0.1:{server.getsockname()[1]}/visitor', {{mode: 'no-cors'}}).catch(() => 0)"
    )
    connection, _ = server.accept()
    with connection:
        connection.settimeout(15)
        assert connection.recv(4096).startswith(b"GET /visitor ")
    context.close()


def test_a_call_of_another_file_is_not_found(browser: Browser, tmp_path: Path) -> None:
    """A session of values that are missing is shown by what is said of them in the notebook."""
    session = sessions.small()
    lost = replace(session, store=sessions.MemoryStore())
    calls: list[RecordedCall] = list(session.entries[1].calls)
    page = to_html(lost, "x")
    assert calls[0].arguments.summary in page.replace("&#39;", "'")
