"""Values to and from a real kernel: frames, images, arrays; get and put; cached inputs."""

from __future__ import annotations

import collections
import fractions
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dspy.primitives.code_interpreter import CodeInterpreterError, FinalOutput

from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.interpreter.dspy_compat import CodeExecutionError
from tests.access import access_of, session_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    """Provide a running interpreter, and restore its configuration after the test."""
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
        collections.deque([1, 2], 5),
        fractions.Fraction(1, 3),
        range(1, 9, 3),
        bytearray(b"ab"),
        collections.OrderedDict(b=1, a=2),
        collections.Counter("aab"),
        collections.defaultdict(list, a=[1]),
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


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "from types import SimpleNamespace\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n"
            "    items: list\nSUBMIT(A([1, 2, 3, SimpleNamespace()]))",
            "SimpleNamespace at answer.items[3]. Convert it",
        ),
        ("SUBMIT(answer={'a': (1, len)})", "builtin_function_or_method at answer['a'][1]. Convert it"),
        (
            "take(1, [len])",
            "take() cannot send this argument to the host: Unsupported value type: builtin_function_or_method "
            "at argument 2[0]",
        ),
        ("take(key={2: [len]})", "builtin_function_or_method at argument key[2][0]"),
    ],
    ids=["field", "item", "position", "keyword"],
)
def test_a_cell_reads_which_part_cannot_leave_it(interp: KernelInterpreter, code: str, says: str) -> None:
    """The error names the type, and where in the answer or the argument it is."""
    interp.tools["take"] = lambda *args, **kwargs: None
    interp.output_fields = [{"name": "answer"}]
    with pytest.raises(CodeExecutionError) as caught:
        interp.execute(code)
    assert says in str(caught.value)


def test_a_caller_reads_which_part_cannot_be_sent(interp: KernelInterpreter) -> None:
    """The same for variables, and for the value of ``get``."""
    with pytest.raises(
        CodeInterpreterError, match=r"Unsupported value type: builtin_function_or_method at v\['a'\]\[1\]"
    ):
        interp.put(v={"a": [1, len]})
    interp.execute("w = [0, {'b': len}]")
    with pytest.raises(CodeExecutionError, match=r"builtin_function_or_method at w\[1\]\['b'\]"):
        interp.get("w")


def test_get_and_put(interp: KernelInterpreter) -> None:
    """get and put transfer values without code; execution is not affected."""
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
    """The text has the image's size; the outputs have the complete image."""
    interp.execute("from IPython.display import display, HTML, JSON\nfrom PIL import Image")
    shown = interp.execute("display(Image.new('RGB', (64, 48)))\ndisplay(HTML('<b>x</b>'))\nprint('done')")
    assert shown == "[figure 64x48 PNG]\n[HTML, 8 characters]\ndone\n"
    picture, html, _ = interp.outputs
    assert picture.data["image/png"].startswith("iVBOR")  # type: ignore[union-attr]
    assert html.data["text/html"] == "<b>x</b>"  # type: ignore[union-attr]


def test_a_progress_bar_counts_once(interp: KernelInterpreter) -> None:
    """The text has its last state, without colours."""
    bar = "for i in range(3): print(f'\\r\\x1b[32m{i}/2', end='', file=sys.stderr)"
    assert interp.execute(f"import sys\n{bar}\nprint('\\x1b[0m', file=sys.stderr)") == "2/2\n"


def test_a_display_that_is_updated_counts_once(interp: KernelInterpreter) -> None:
    """Progress bars of notebooks do this: the text has the last state, at the first position."""
    code = "shown = display('0 %', display_id=True)\nfor n in range(100): shown.update(f'{n + 1} %')\nprint('over')"
    assert interp.execute(code) == "'100 %'\nover\n"


def sent(interp: KernelInterpreter, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the size of each request's buffers is appended."""
    sizes: list[int] = []
    kernel = session_of(interp).kernel
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
    """Each cell has a new copy of it; after a change it is sent again."""
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
    """The values are sent again, and the cell runs once."""
    interp.execute("n = 0", {"v": LARGE})
    interp.execute(
        "import gc\nfor o in gc.get_objects():\n    if type(o).__name__ == 'InputCache': o._evict(o.keys[-1])"
    )
    inputs = access_of(interp).sent_inputs
    inputs.set_cached_keys([inputs.encode("v", LARGE, None).key])
    sizes = sent(interp, monkeypatch)
    assert interp.execute("n += 1\nprint(n, len(v))", {"v": LARGE}) == f"1 {len(LARGE)}\n"
    assert len(sizes) == 2
    assert interp.execute("n") == 1


def test_a_missing_library_is_named_with_the_variable(interp: KernelInterpreter) -> None:
    """The error names the package and the side, and the session continues."""
    interp.execute("import sys\nkept = {n: sys.modules.pop(n) for n in list(sys.modules) if 'polars' in n}\n"
                   "sys.modules['polars'] = None")  # fmt: skip
    try:
        with pytest.raises(CodeExecutionError, match="polars is not installed where it arrived: install polars there"):
            interp.execute("1", {"v": pl.DataFrame({"a": [1]})})
    finally:
        interp.execute("sys.modules.update(kept)")
    assert interp.execute("v.height", {"v": pl.DataFrame({"a": [1]})}) == 1


# --- output --------------------------------------------------------------------------------------------------


def test_nothing_that_is_shown_exceeds_a_message() -> None:
    """The session continues after a print, an error, a display and a value above the message limit."""
    with KernelInterpreter(sandbox="local", max_value_bytes=1 << 20, max_output_chars=None) as own:
        size = 20 << 20
        assert own.execute(f"print('x' * {size}, end='')") == "x" * size
        with pytest.raises(CodeExecutionError, match="characters left out"):
            own.execute(f"raise ValueError('y' * {size})")
        own.execute(f"from IPython.display import HTML\ndisplay(HTML('z' * {size}))")
        note = "[text/html left out: its 20,971,520 characters are more than the cell may still show]"
        shown = {"text/plain": f"<IPython.core.display.HTML object>\n{note}"}
        assert [getattr(output, "data", None) for output in own.outputs] == [shown]
        assert own.execute(f"HTML('z' * {size})") == shown["text/plain"]
        own.max_output_chars = 1000
        assert len(own.execute("for i in range(30): display('x' * 10_000)")) < 10_000
        assert own.execute("1 + 1") == 2


def test_a_message_of_many_parts_is_no_way_around_the_limit() -> None:
    """A message whose parts exceed the limit in total is lost, which is reported, and the session continues."""
    send = (
        "kernel = get_ipython().kernel\n"
        "message = {'comm_id': 'x', 'data': {'op': 'value'}}, kernel.get_parent('shell')\n"
        "kernel.session.send(kernel.iopub_socket, 'comm_msg', *message, buffers=[bytes(1 << 20)] * parts)\n"
        "print('sent')"
    )
    with KernelInterpreter(sandbox="local", max_value_bytes=1 << 20) as own:
        assert own.execute(send, {"parts": 10}).startswith("sent\n")
        assert re.fullmatch(r"\n\[\.\.\. some output was lost .*\nsent\n", own.execute(send, {"parts": 20}))
        assert own.execute("1 + 1") == 2


# --- files ------------------------------------------------------------------------------------------------


def test_files_and_folders_there_and_back(interp: KernelInterpreter, tmp_path: Path) -> None:
    """Empty files are included, and one of several pieces with progress reports."""
    source = tmp_path / "source"
    (source / "inner" / "empty").mkdir(parents=True)
    (source / "a.txt").write_text("äöü")
    (source / "nothing").touch()
    (source / "inner" / "large.bin").write_bytes(bytes(range(256)) * (80 << 10))
    (source / "circle").symlink_to(source)
    steps: list[tuple[int, int]] = []
    interp.upload(source, "up/loaded", lambda *step: steps.append(step))
    size = (20 << 20) + 6
    assert steps[-1] == (size, size)
    assert len(steps) >= 4
    assert interp.execute("import os; sorted(os.listdir('up/loaded'))") == ["a.txt", "inner", "nothing"]
    steps.clear()
    copy = interp.download("up/loaded", tmp_path / "copy", lambda *step: steps.append(step))
    assert steps[-1] == (size, size)
    assert copy == tmp_path / "copy"
    names = sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*"))
    assert names == ["a.txt", "inner", "inner/empty", "inner/large.bin", "nothing"]
    for name in ("a.txt", "nothing", "inner/large.bin"):
        assert (copy / name).read_bytes() == (source / name).read_bytes()


def test_one_file(interp: KernelInterpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its name by default; a longer existing file is replaced."""
    monkeypatch.chdir(tmp_path)
    for text in ("long text", "short"):
        Path("one.txt").write_text(text)
        interp.upload("one.txt")
        Path("one.txt").unlink()
        assert interp.download("one.txt").read_text() == text


def test_files_that_are_not_there(interp: KernelInterpreter, tmp_path: Path) -> None:
    """The error is the one of the side without the file."""
    with pytest.raises(FileNotFoundError):
        interp.upload(tmp_path / "nothing")
    with pytest.raises(CodeExecutionError, match=r"download\(\): FileNotFoundError: .*nothing"):
        interp.download("nothing", tmp_path / "x")
    with pytest.raises(CodeExecutionError, match=r"upload\(\): \w+Error: .*/dev/null"):
        interp.upload(__file__, "/dev/null/x")


@pytest.fixture
def hostile(interp: KernelInterpreter) -> Iterator[Callable[..., None]]:
    """Provide a sandbox with forged listings that sends one byte for each requested piece."""

    def install(*entries: Any, piece: bytes = b"x") -> None:
        interp.execute(
            "import daytona_kernel_interp.guest.kernel.bridge as bridge\nkept = bridge.handle_request\n"
            "bridge.handle_request = lambda request: entries if request['do'] == 'list' else piece",
            {"entries": list(entries), "piece": piece},
        )

    yield install
    interp.execute("bridge.handle_request = kept")


@pytest.mark.parametrize(
    "entry",
    [
        *((name, 1) for name in ("../x", "/tmp/x", "a/../../x", "a\\x", "a\0", 5)),
        ("x", -1),
        ("a\nb", 1),
        ("\x1b]0;title\x07", 1),
        ("folder/\x9b31m", None),
        ("invoice\u202egnp.exe", 1),
        ("x" * 5000, 1),
        ("x", 1 << 70),
        ("x", True),
        ("x", -(10**5000)),
        "x",
        5,
    ],
)
def test_a_sandbox_cannot_write_outside_of_the_folder(
    interp: KernelInterpreter, hostile: Callable[..., None], tmp_path: Path, entry: Any
) -> None:
    """Listed paths outside of the folder are refused."""
    hostile(entry)
    with pytest.raises(CodeInterpreterError, match="cannot be inside the folder"):
        interp.download("folder", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_folder_is_no_way_out(
    interp: KernelInterpreter, hostile: Callable[..., None], tmp_path: Path
) -> None:
    """A linked folder is not written to; a link to a file is replaced, not its target."""
    copy, outside = tmp_path / "copy", tmp_path / "outside"
    copy.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("mine")
    (copy / "link").symlink_to(outside)
    (copy / "file").symlink_to(outside / "secret")
    hostile(("", None), ("file", 1), ("link/secret", 1))
    with pytest.raises(CodeInterpreterError, match=r"link is a link out of .*copy: remove it first"):
        interp.download("folder", copy)
    assert (outside / "secret").read_text() == "mine"
    assert (copy / "file").read_text() == "x"
    assert not (copy / "file").is_symlink()


@pytest.mark.parametrize(
    "entry", [("lnk/sub/deep/x", 3), ("lnk/sub", None), ("in/lnk/deep/x", 1), ("in/lnk/a/b", None)]
)
def test_no_folder_is_made_behind_a_link(
    interp: KernelInterpreter, hostile: Callable[..., None], tmp_path: Path, entry: Any
) -> None:
    """The check comes first."""
    copy, outside = tmp_path / "copy", tmp_path / "outside"
    (copy / "in").mkdir(parents=True)
    outside.mkdir()
    (copy / "lnk").symlink_to(outside)
    (copy / "in" / "lnk").symlink_to("../../outside")
    hostile(entry)
    with pytest.raises(CodeInterpreterError, match=r"is a link out of .*copy: remove it first"):
        interp.download("folder", copy)
    assert list(outside.iterdir()) == []


def test_a_listing_without_end_is_refused(
    interp: KernelInterpreter, hostile: Callable[..., None], tmp_path: Path
) -> None:
    """No file of it is written."""
    hostile(*[("x", 1)] * 100_001)
    with pytest.raises(CodeInterpreterError, match="the sandbox listed 100,001 files; at most 100,000 are copied"):
        interp.download("folder", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "listed", [[("", 1 << 60)], [("", None), ("a", 1 << 59), ("b", 1 << 59)], [("a/b", (1 << 63) - 1)]]
)
def test_sizes_that_the_disk_has_no_room_for_are_refused(
    interp: KernelInterpreter, hostile: Callable[..., None], tmp_path: Path, listed: list[Any]
) -> None:
    """Before the first file is written."""
    hostile(*listed)
    with pytest.raises(OSError, match=r"bytes are to be copied, and .* are free"):
        interp.download("folder", tmp_path / "new" / "x")
    assert list(tmp_path.iterdir()) == []


def test_names_of_unfinished_files_are_nobodys(
    interp: KernelInterpreter, hostile: Callable[..., None], tmp_path: Path
) -> None:
    """Other files with such names are transferred too."""
    hostile(("", None), ("a.part", 1), ("a", 1), ("a.part.part", 1))
    copy = interp.download("folder", tmp_path / "copy")
    assert sorted(path.name for path in copy.iterdir()) == ["a", "a.part", "a.part.part"]


def test_a_piece_that_is_none_is_refused(
    interp: KernelInterpreter, hostile: Callable[..., None], tmp_path: Path
) -> None:
    """A piece that is too long is not written, and the partial file is deleted."""
    hostile(("", 1), piece=b"xx")
    with pytest.raises(CodeInterpreterError, match="a piece of a file that was not requested"):
        interp.download("one", tmp_path / "one")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_download_leaves_no_half_file(
    interp: KernelInterpreter, tmp_path: Path, error: type[BaseException]
) -> None:
    """No partial file remains under any name, the old file is kept, and the next download works."""
    interp.execute("with open('large.bin', 'wb') as file: file.write(b'x' * (20 << 20))")
    target = tmp_path / "large.bin"
    target.write_text("old")

    def stop(done: int, total: int) -> None:
        raise error

    with pytest.raises(error):
        interp.download("large.bin", target, stop)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    interp.download("large.bin", target)
    assert target.stat().st_size == 20 << 20
    interp.upload(tmp_path, "up/again")
    assert interp.execute("import os; os.path.getsize('up/again/large.bin')") == 20 << 20


def test_empty_files_and_folders(interp: KernelInterpreter, tmp_path: Path) -> None:
    """Empty files and folders are transferred in both directions; an empty file replaces another one."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("not empty yet")
    interp.upload(tmp_path / "file", "e/file")
    (tmp_path / "file").write_text("")
    interp.upload(tmp_path / "file", "e/file")
    interp.upload(tmp_path / "folder", "e/folder")
    copy = interp.download("e", tmp_path / "copy")
    assert sorted(path.name for path in copy.iterdir()) == ["file", "folder"]
    assert (copy / "file").read_bytes() == b""
    assert list((copy / "folder").iterdir()) == []
    assert interp.download("e/folder", tmp_path / "second").is_dir()


def test_frames_travel_as_arrow_once_each_side_knows_of_the_other(
    interp: KernelInterpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames to the cell, to a tool and back, and in SUBMIT are one stream in each direction."""
    interp.execute("import pandas")  # its reply reports pyarrow
    frame = pd.DataFrame({"a": np.arange(20_000), "s": [f"text {n}" for n in range(20_000)]})
    interp.tools["same"], interp.output_fields = lambda f: f, [{"name": "answer"}]
    decoded: list[bytes] = []
    monkeypatch.setattr("daytona_kernel_interp.codec.values.decode", _spy(decoded))
    code = """
from daytona_kernel_interp.codec import values
heads, decode = [], values.decode
values.decode = lambda buffers: heads.append(bytes(buffers[0])) or decode(buffers)
try:
    back = same(f)
finally:
    values.decode = decode
assert b'"ipc"' in heads[-1]
"""
    encoded = access_of(interp).sent_inputs.encode("f", frame, None)
    assert b'"ipc"' in bytes(encoded.buffers[0])
    submitted = interp.execute(f"{code}SUBMIT(back)", {"f": frame})
    pd.testing.assert_frame_equal(submitted.output["answer"], frame)
    assert [b'"ipc"' in head for head in decoded] == [True, True]  # the tool's argument, the result


def _spy(heads: list[bytes]) -> Any:
    from daytona_kernel_interp.codec import values

    decode = values.decode

    def spy(buffers: Any) -> Any:
        heads.append(bytes(buffers[0]))
        return decode(buffers)

    return spy
