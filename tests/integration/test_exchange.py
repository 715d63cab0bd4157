"""Values in and out of a real kernel: frames, images, arrays; get and put; what is not sent twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from dspy.primitives.code_interpreter import CodeInterpreterError, FinalOutput

from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.dspy_versions import CodeExecutionError

if TYPE_CHECKING:
    from collections.abc import Iterator

np = pytest.importorskip("numpy", reason="numpy is not installed in this environment")
pd = pytest.importorskip("pandas", reason="pandas is not installed in this environment")
pl = pytest.importorskip("polars", reason="polars is not installed in this environment")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed in this environment")
Image = pytest.importorskip("PIL.Image", reason="pillow is not installed in this environment")

LARGE = "x" * (1 << 20)


@pytest.fixture(scope="module")
def shared() -> Iterator[KernelInterpreter]:
    with KernelInterpreter(sandbox="local") as interpreter:
        yield interpreter


@pytest.fixture
def interp(shared: KernelInterpreter) -> Iterator[KernelInterpreter]:
    """A running interpreter, its configuration as new after the test."""
    yield shared
    shared.tools.clear()
    shared.output_fields = None


def values() -> list[Any]:
    frame = pd.DataFrame({"a": [1, 2], "s": ["x", None], "t": pd.date_range("2020", periods=2, tz="Europe/Berlin")})
    return [
        np.arange(6.0).reshape(2, 3),
        np.float32(1.5),
        frame,
        frame.t,
        pl.DataFrame({"a": [1, None], "s": ["x", "y"]}),
        pa.table({"a": [1, 2]}),
        Image.new("RGB", (3, 2), (1, 2, 3)),
        (1, {2, 3}, b"x"),
        "123",
    ]


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, (pd.DataFrame, pd.Series, pl.DataFrame, pa.Table)):
        return bool(left.equals(right))
    return type(left) is type(right) and bool(np.all(left == right))


@pytest.mark.parametrize("place", range(len(values())))
def test_every_type_in_and_out(interp: KernelInterpreter, place: int) -> None:
    """Through variables, tools, SUBMIT, put and get, the type is kept."""
    value = values()[place]
    interp.tools["same"] = lambda v: v
    interp.output_fields = [{"name": "answer"}]
    submitted = interp.execute("SUBMIT(same(v))", {"v": value})
    assert isinstance(submitted, FinalOutput)
    assert equal(submitted.output["answer"], value)
    interp.put(w=value)
    assert equal(interp.get("w"), value)
    assert interp.execute("type(w).__qualname__ == type(v).__qualname__") is True


def test_get_and_put(interp: KernelInterpreter) -> None:
    """Values of the session, without code; execution goes on as before."""
    interp.put(a=[1, (2,)], b="text")
    interp.execute("a.append(3); f = lambda: 1; c = len(b)")
    assert (interp.get("a"), interp.get("c")) == ([1, (2,), 3], 4)
    interp.put()
    with pytest.raises(CodeExecutionError, match=r"get\(\): NameError: name 'nothing' is not defined"):
        interp.get("nothing")
    with pytest.raises(CodeExecutionError, match="variable 'f' cannot be sent to the host: Unsupported value type"):
        interp.get("f")
    with pytest.raises(CodeInterpreterError, match=r"name of one variable, not 'a\.b'"):
        interp.get("a.b")
    with pytest.raises(CodeInterpreterError, match="Variable 'x' cannot be sent"):
        interp.put(x=lambda: 1)
    assert interp.execute("c") == 4


def test_a_model_reads_what_a_picture_is(interp: KernelInterpreter) -> None:
    """The text names it with its size; the outputs have it whole."""
    interp.execute("from IPython.display import display, HTML, JSON\nfrom PIL import Image")
    shown = interp.execute("display(Image.new('RGB', (64, 48)))\ndisplay(HTML('<b>x</b>'))\nprint('done')")
    assert shown == "[figure 64x48 PNG]\n[HTML, 8 characters]\ndone\n"
    picture, html, _ = interp.outputs
    assert picture.data["image/png"].startswith("iVBOR")  # type: ignore[union-attr]
    assert html.data["text/html"] == "<b>x</b>"  # type: ignore[union-attr]


def test_a_progress_bar_counts_once(interp: KernelInterpreter) -> None:
    """A model reads its last state, without colours."""
    code = "import sys\nfor i in range(3): print(f'\\r\\x1b[32m{i}/2', end='', file=sys.stderr)\nprint('\\x1b[0m', file=sys.stderr)"
    assert interp.execute(code) == "2/2\n"


def sent(interp: KernelInterpreter, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list that gets the size of each request's buffers."""
    sizes: list[int] = []
    kernel = interp._session.kernel  # type: ignore[union-attr]
    run = kernel.run

    async def watched(code: str, preamble: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(sum(map(len, preamble)))
        return await run(code, preamble, *args, **kwargs)

    monkeypatch.setattr(kernel, "run", watched)
    return sizes


@pytest.mark.parametrize("value", [LARGE, [LARGE, 1], np.zeros(1 << 20)], ids=["text", "list", "array"])
def test_an_input_that_did_not_change_is_sent_once(
    interp: KernelInterpreter, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    """And is fresh in each cell all the same; after a change it is sent again."""
    interp.execute("import numpy")
    sizes = sent(interp, monkeypatch)
    change = "v += 'y'" if isinstance(value, str) else "v[0] = 5"
    for _ in range(3):
        assert interp.execute("print(len(v), v[0] == 5)\n" + change, {"v": value}) == f"{len(value)} False\n"
    assert sizes[0] > 1 << 20
    assert max(sizes[1:]) < 10_000
    changed: Any = value[1:]
    assert interp.execute("len(v)", {"v": changed}) == len(changed)


def test_a_kernel_that_lost_its_values_gets_them_again(
    interp: KernelInterpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell runs once, with its variables."""
    interp.execute("n = 0", {"v": LARGE})
    interp.execute("import gc\nfor o in gc.get_objects():\n    if type(o).__name__ == 'Keeping': o._drop(o.keys[-1])")
    interp._inputs.kernel_has([interp._inputs._sent["v"].key])
    sizes = sent(interp, monkeypatch)
    assert interp.execute("n += 1\nprint(n, len(v))", {"v": LARGE}) == f"1 {len(LARGE)}\n"
    assert len(sizes) == 2
    assert interp.execute("n") == 1


def test_a_missing_library_is_named_with_the_variable(interp: KernelInterpreter) -> None:
    """The error says what to install where, and the session goes on."""
    interp.execute("import sys\nkept = {n: sys.modules.pop(n) for n in list(sys.modules) if 'polars' in n}\n"
                   "sys.modules['polars'] = None")  # fmt: skip
    try:
        with pytest.raises(CodeExecutionError, match="polars is not installed where it arrived: install polars there"):
            interp.execute("1", {"v": pl.DataFrame({"a": [1]})})
    finally:
        interp.execute("sys.modules.update(kept)")
    assert interp.execute("v.height", {"v": pl.DataFrame({"a": [1]})}) == 1
