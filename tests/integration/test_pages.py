"""What a notebook shows, in a real browser: the table sorts, the view draws, and nothing of a sandbox is markup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daytona_kernel_interp.monitor import widget
from daytona_kernel_interp.monitor.inspection import Inspection, Variable
from tests import browser
from tests.rendered import html_of

if TYPE_CHECKING:
    from collections.abc import Iterator

EVIL = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with browser.browser() as running:
        yield running.new_page()


def column(page: Any, number: int) -> list[str]:
    texts: list[str] = page.eval_on_selector_all(
        f"tbody td:nth-child({number})", "cells => cells.map(c => c.textContent)"
    )
    return texts


def inside(page: Any, selector: str, edge: str = "start") -> bool:
    """Return whether an element's edge is in sight in what scrolls around it."""
    found: bool = page.eval_on_selector(
        selector,
        """(it, edge) => {
            const own = it.getBoundingClientRect(), box = it.parentNode.getBoundingClientRect();
            const y = edge === 'end' ? own.bottom : own.top;
            return box.top - 1 <= y && y <= box.bottom + 1;
        }""",
        edge,
    )
    return found


def test_a_click_on_a_heading_sorts(page: Any) -> None:
    """Names sort as text, sizes and shapes as numbers, a second click the other way; values stay text."""
    variables = (
        Variable("b", "list", 2_000_000, (9,), EVIL),
        Variable("a", "str", 900, (10, 10), "'x'"),
        Variable(EVIL, "C", None, None, ""),
    )
    page.set_content(html_of(Inspection(variables)))
    assert page.title() == ""
    for heading, expected in (("Name", [EVIL, "a", "b"]), ("Size", [EVIL, "a", "b"]), ("Shape", [EVIL, "b", "a"])):
        page.click(f"th:has-text('{heading}')")
        assert column(page, 1) == expected
    page.click("th:has-text('Shape')")
    assert column(page, 1) == ["a", "b", EVIL]
    assert column(page, 5)[1] == EVIL
    assert page.title() == ""


def test_the_view_draws_what_it_is_told(page: Any) -> None:
    """Steps, the line that runs and variables appear, change with the model, and a step that was closed stays so."""
    source = Path(widget.__file__).with_name("widget.js").read_text().replace("export default { render };", "")
    page.set_content("<div id=place></div>")
    page.evaluate(
        """source => {
            const state = {session: 'abc', over: '',
                now: {headings: ['Cell 1 runs'], code: 'a\\nb', line: 2, footings: ['2 more']},
                steps: [{number: 1, code: 'print(1)', state: 'running', took_s: 1.5, tail: '1', error: ''}],
                variables: [['x', 'int', '28 B', '', '1']]};
            const heard = {};
            const model = {get: name => state[name], on: (event, work) => heard[event] = work};
            window.tell = (name, value) => { state[name] = value; heard[`change:${name}`](); };
            new Function(source + '; return render;')()({model, el: document.getElementById('place')});
        }""",
        source,
    )
    assert "Session abc" in page.inner_text("#place")
    assert page.inner_text(".dk-here") == "b"
    assert page.inner_text("summary") == "1 running, 1.5 s print(1)"
    assert page.inner_text("#place").splitlines()[-1] == "2 more"
    assert page.locator("details pre").all_inner_texts() == ["1"]  # its code stands above, with its line
    page.click("summary")
    step = {"number": 1, "code": EVIL, "state": "failed", "took_s": 2.0, "tail": EVIL, "error": EVIL}
    page.evaluate("step => tell('steps', [step])", step)
    assert page.eval_on_selector("details", "d => d.open") is False
    page.evaluate("text => tell('variables', [[text, text, '', '', text]])", EVIL)
    assert page.locator("details pre").all_text_contents() == [EVIL + "\n", EVIL, EVIL]
    code = "\n".join(f"line_{number}" for number in range(1, 201))
    page.evaluate("code => tell('now', {headings: [], footings: [], code, line: 150})", code)
    page.evaluate("step => tell('steps', [step])", {**step, "number": 2, "tail": code})
    assert inside(page, ".dk-here")
    assert inside(page, ".dk-tail pre", "end")
    page.evaluate("text => tell('over', text)", EVIL)
    assert page.locator("img, #place script").count() == 0
    assert page.title() == ""
    assert "is over" in page.inner_text("#place")
