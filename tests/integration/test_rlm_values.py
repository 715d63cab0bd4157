"""Frames, arrays, images and models in DSPy's own RLM loop: as inputs, in tools, and as the answer."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import dspy
import pydantic
import pytest

from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.demo.script import ScriptedStep

from .test_rlm import TAKES_FACTORY, outputs, run

if TYPE_CHECKING:
    from collections.abc import Iterator

np = pytest.importorskip("numpy", reason="numpy is not installed in this environment")
pd = pytest.importorskip("pandas", reason="pandas is not installed in this environment")
pytest.importorskip("pyarrow", reason="pyarrow is not installed in this environment")
Image = pytest.importorskip("PIL.Image", reason="pillow is not installed in this environment")


@pytest.fixture(scope="module")
def interp() -> Iterator[KernelInterpreter]:
    with KernelInterpreter(sandbox="local") as interpreter:
        yield interpreter


class Page(pydantic.BaseModel):
    """What a host's tool takes and gives; the sandbox has no such class."""

    title: str
    tags: tuple[str, ...] = ()


def signature(inputs: str, **answers: Any) -> Any:
    fields: dict[str, Any] = {name: (Any, dspy.InputField()) for name in inputs.split()}
    make: Any = dspy.Signature  # its own types know of no call that makes one
    return make({**fields, **{name: (kind, dspy.OutputField()) for name, kind in answers.items()}}, "Answer.")


def sales() -> Any:
    return pd.DataFrame(
        {
            "city": ["Oslo", "Rome", "Oslo"],
            "amount": [1.5, None, 3.0],
            "when": pd.to_datetime(["2024-01-01", "2024-06-01", "2024-12-31"]).tz_localize("Europe/Rome"),
        }
    )


def test_a_frame_goes_in_and_another_comes_out(interp: KernelInterpreter) -> None:
    """An input is a frame at each step, whatever code did to it before; the answer is one too."""
    frame = sales()
    result = run(
        signature("frame", table=Any, total=float),
        [
            ScriptedStep(
                "Look.", "print(type(frame).__name__, frame.when.dt.tz, frame.amount.sum()); frame.amount = 0"
            ),
            ScriptedStep("Show.", "frame.head(1)"),
            ScriptedStep("Answer.", "SUBMIT(frame.groupby('city', as_index=False).amount.sum(), frame.amount.sum())"),
        ],
        interp,
        {"frame": frame},
    )
    pd.testing.assert_frame_equal(result.table, pd.DataFrame({"city": ["Oslo", "Rome"], "amount": [4.5, 0.0]}))
    assert result.total == 4.5
    assert type(result.total) is float
    shown = outputs(result)
    assert shown[0] == "DataFrame Europe/Rome 4.5\n"
    assert "Oslo" in shown[1]
    assert frame.equals(sales())


def test_an_array_and_an_image_go_through_a_tool(interp: KernelInterpreter) -> None:
    """There and back as what they are; a picture that is shown is named to the model."""
    seen: list[Any] = []

    def blur(image: Any, kernel: Any) -> Any:
        """Blur an image."""
        seen.append((image, kernel))
        return image.resize((2, 2)), kernel * 2

    result = run(
        signature("image weights", small=Any, doubled=Any),
        [
            ScriptedStep("Look.", "print(image.size, weights.dtype, weights.flags.writeable)\nimage"),
            ScriptedStep("Blur.", "small, doubled = blur(image, kernel=weights)\nprint(small.mode)"),
            ScriptedStep("Answer.", "SUBMIT(small=small, doubled=doubled)"),
        ],
        interp,
        {"image": Image.new("RGB", (4, 3), (9, 8, 7)), "weights": np.eye(2, dtype="<f4")},
        tools=[blur],
    )
    assert (seen[0][0].size, seen[0][1].dtype) == ((4, 3), np.dtype("f4"))
    assert result.small.tobytes() == bytes([9, 8, 7] * 4)
    assert (result.doubled.dtype, result.doubled.tolist()) == (np.dtype("f4"), [[2, 0], [0, 2]])
    shown = outputs(result)
    assert shown[0].startswith("(4, 3) float32 True\n")
    assert "[figure 4x3 PNG]" in shown[0]
    assert shown[1] == "RGB\n"


def test_a_model_goes_in_through_a_tool_and_out(interp: KernelInterpreter) -> None:
    """The cell reads its attributes and items, a tool gets an instance, and the answer is one again."""
    pages: list[Page] = []

    def save(page: Page) -> Page:
        """Save a page."""
        pages.append(page)
        return page.model_copy(update={"tags": (*page.tags, "saved")})

    result = run(
        signature("page", answer=Page),
        [
            ScriptedStep("Look.", "print(page.title, page['tags'])"),
            ScriptedStep(
                "Save.", "saved = save({'title': page.title.upper(), 'tags': ['x']}); print(saved.tags, saved.title)"
            ),
            ScriptedStep("Wrong.", "save({'tags': []})"),
            ScriptedStep("Answer.", "SUBMIT(saved)"),
        ],
        interp,
        {"page": Page(title="home", tags=("a", "b"))},
        tools=[save],
    )
    assert result.answer == Page(title="HOME", tags=("x", "saved"))
    assert all(type(page) is Page for page in pages)
    shown = outputs(result)
    assert shown[0] == "home ('a', 'b')\n"
    assert shown[1] == "('x', 'saved') HOME\n"
    assert "title" in shown[2]
    assert "required" in shown[2]


def test_a_value_that_cannot_come_out_is_said_to_the_model(interp: KernelInterpreter) -> None:
    """The error is raised in the cell, so that the next step can correct it."""
    result = run(
        signature("q", answer=Any),
        [ScriptedStep("Wrong.", "SUBMIT(x for x in q)"), ScriptedStep("Right.", "SUBMIT(list(q))")],
        interp,
        {"q": "ab"},
    )
    assert result.answer == ["a", "b"]
    assert "Unsupported value type: generator at answer. Convert it to plain Python first" in outputs(result)[0]


@pytest.mark.skipif(not TAKES_FACTORY, reason="DSPy before 3.3 has no SandboxSerializable")
def test_dspys_own_way_of_sending_a_frame_works(interp: KernelInterpreter) -> None:
    """SandboxSerializable: text, or what is no text as base64, once, before the first step."""

    class Frame(dspy.SandboxSerializable):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self, frame: Any) -> None:
            self.frame = frame

        def sandbox_setup(self) -> str:
            return "import io, pandas as pd"

        def to_sandbox(self) -> bytes:
            file = io.BytesIO()
            self.frame.to_parquet(file)
            return base64.b64encode(file.getvalue()) if len(self.frame) == 1 else file.getvalue()

        def sandbox_assignment(self, var_name: str, data_expr: str) -> str:
            data = f"base64.b64decode({data_expr})" if len(self.frame) == 1 else data_expr
            return f"import base64\n{var_name} = pd.read_parquet(io.BytesIO({data}))"

        def rlm_preview(self, max_chars: int = 500) -> str:
            return f"{len(self.frame)} rows"

    for frame in (sales(), sales()[:1]):
        steps = [ScriptedStep("Answer.", "SUBMIT(len(f), f)")]
        result = run(signature("f", n=int, back=Any), steps, interp, {"f": Frame(frame)})
        assert result.n == len(frame)
        pd.testing.assert_frame_equal(result.back, frame)
