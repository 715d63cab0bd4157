"""Everything of DSPy that runs code, on KernelInterpreter: the real modules with a model that follows rules."""

from __future__ import annotations

import base64
import contextlib
import importlib
import inspect
from typing import TYPE_CHECKING, Any

import pydantic
import pytest

from daytona_kernel_interp import KernelInterpreter
from daytona_kernel_interp.interpreter.dspy_compat import REOPENS
from tests.integration.scripts import model

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.dspy,
    pytest.mark.filterwarnings("ignore:(CodeAct|ProgramOfThought) is deprecated:DeprecationWarning"),
    # DSPy 3.4 calls its own models so, for sandboxed code.
    pytest.mark.filterwarnings("ignore:Passing OpenAI-style message dictionaries:DeprecationWarning"),
]

dspy: Any = importlib.import_module("dspy")  # typed in part only, and differently in each version
RLM = dspy.RLM
_RLM_PARAMETERS = inspect.signature(dspy.RLM.__init__).parameters
TAKES_FACTORY = "interpreter_factory" in _RLM_PARAMETERS
CALL_TAKES_FACTORY = "interpreter_factory" in inspect.signature(dspy.RLM.forward).parameters
CALL_TAKES_INTERPRETER = "interpreter" in inspect.signature(dspy.RLM.forward).parameters
HAS_FACADE = hasattr(dspy.RLM, "_setup_facade")

needs_factory = pytest.mark.skipif(not TAKES_FACTORY, reason="DSPy before 3.3 takes no factory")
needs_facade = pytest.mark.skipif(not HAS_FACADE, reason="DSPy before 3.4.1 has no sub-agents in RLM")


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """A factory is called without arguments: the environment says where its kernels run."""
    monkeypatch.setenv("DAYTONA_KERNEL_SANDBOX", "local")


@pytest.fixture(scope="module")
def interp() -> Iterator[KernelInterpreter]:
    with KernelInterpreter(sandbox="local") as interpreter:
        yield interpreter


def owned(kind: Any, signature: str, interpreter: KernelInterpreter, *args: Any, **inputs: Any) -> Any:
    """Run a module once on an interpreter of the caller's, as this DSPy spells it."""
    if TAKES_FACTORY:
        return kind(signature, *args)(interpreter, **inputs)
    return kind(signature, *args, interpreter=interpreter)(**inputs)


# --- RLM's spellings ----------------------------------------------------------------------------------


@contextlib.contextmanager
def configured() -> Iterator[None]:
    before = dspy.settings.get("interpreter_factory")
    dspy.configure(interpreter_factory=KernelInterpreter)
    try:
        yield
    finally:
        dspy.configure(interpreter_factory=before)


@pytest.mark.parametrize("spelling", ["keyword", "factory", "configure", "context", "call", "positional"])
def test_every_spelling_of_rlm(spelling: str, interp: KernelInterpreter) -> None:
    """Each way in which a DSPy version lets RLM have an interpreter runs the code in our kernel."""
    if spelling == "factory" and not TAKES_FACTORY:
        pytest.skip("DSPy before 3.3 takes no factory")
    if spelling in ("configure", "context", "call") and not CALL_TAKES_FACTORY:
        pytest.skip("DSPy before 3.4 configures no factory")
    if spelling == "positional" and not CALL_TAKES_INTERPRETER:
        pytest.skip("only DSPy 3.3 takes an interpreter in the call")
    inputs: dict[str, Any] = {"q": "x"}
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {
            "keyword": {"interpreter": interp},
            "factory": {"interpreter_factory": KernelInterpreter},
        }
        if spelling == "configure":
            stack.enter_context(configured())
        elif spelling == "context":
            stack.enter_context(dspy.context(interpreter_factory=KernelInterpreter))
        elif spelling == "call":
            inputs["interpreter_factory"] = KernelInterpreter
        stack.enter_context(dspy.context(lm=model(code="SUBMIT(f'{q} in {type(get_ipython()).__name__}')")))
        rlm = RLM("q -> a", **options.get(spelling, {}))
        result = rlm(interp, **inputs) if spelling == "positional" else rlm(**inputs)
    assert result.a == "x in Shell"


@pytest.mark.skipif(not CALL_TAKES_INTERPRETER, reason="only DSPy 3.3 takes an interpreter in the call")
def test_a_positional_interpreter_stays_the_callers(interp: KernelInterpreter) -> None:
    """DSPy 3.3 neither shuts it down nor forgets its variables."""
    with dspy.context(lm=model(code="kept = q; SUBMIT(kept)")):
        RLM("q -> a")(interp, q="mine")
    assert interp.execute("kept") == "mine"
    interp.tools.clear()


def test_instructions_reach_the_model(interp: KernelInterpreter) -> None:
    """What the REPL has stands in RLM's prompt, from a class as factory as from the lent object (from DSPy 3.3.1)."""
    seen: list[str] = []
    if not hasattr(dspy.utils.callback.BaseCallback, "on_interpreter_execute_start"):
        pytest.skip("DSPy before 3.3.1 reads no instructions")
    for options in ({"interpreter": interp}, {"interpreter_factory": KernelInterpreter}):
        rlm = RLM("q -> a", **options)
        seen.append(rlm.generate_action.signature.instructions)
    for instructions in seen:
        assert KernelInterpreter.execution_instructions in instructions
    for word in ("magics", "await", "figure", "file", "rint", "last", "catch", "SUBMIT", "state"):
        assert word in KernelInterpreter.execution_instructions


# --- ProgramOfThought and CodeAct -----------------------------------------------------------------------


@pytest.mark.parametrize("code", ["SUBMIT({'answer': 42})", "6 * 7", "print(42)", "answer = 42", "(42, float('nan'))"])
def test_program_of_thought(interp: KernelInterpreter, code: str) -> None:
    """What a cell gives goes through json.dumps, whatever it is; the module's answer is built on it."""
    own = interp if TAKES_FACTORY else interp.spawn()  # DSPy before 3.3 shuts it down
    with dspy.context(lm=model(generated_code=code, answer=lambda prompt: "yes" if "42" in prompt else "no")):
        assert owned(dspy.ProgramOfThought, "question -> answer", own, question="?").answer == "yes"


def test_program_of_thought_mends_its_code(interp: KernelInterpreter) -> None:
    """An error reaches the model with its type and line, and the corrected code runs."""
    own = interp if TAKES_FACTORY else interp.spawn()

    def code(prompt: str) -> str:
        return "SUBMIT('mended')" if "ZeroDivisionError: division by zero" in prompt else "1/0"

    with dspy.context(lm=model(generated_code=code, answer=lambda prompt: "yes" if '"mended"' in prompt else "no")):
        assert owned(dspy.ProgramOfThought, "question -> answer", own, question="?").answer == "yes"


@pytest.mark.skipif(TAKES_FACTORY, reason="from DSPy 3.3 each run has an interpreter of its own")
@pytest.mark.parametrize("kind", [dspy.ProgramOfThought, dspy.CodeAct])
def test_old_modules_use_an_interpreter_again(interp: KernelInterpreter, kind: Any) -> None:
    """DSPy before 3.3 shuts its interpreter down after every call and uses it for the next."""
    assert REOPENS
    args: tuple[Any, ...] = ([double],) if kind is dspy.CodeAct else ()
    module = kind("question -> answer", *args, interpreter=interp.spawn())
    lm = model(generated_code="print(6 * 7)", finished="True", answer=lambda prompt: "yes" if "42" in prompt else "no")
    with dspy.context(lm=lm):
        assert [module(question="?").answer for _ in range(2)] == ["yes", "yes"]


@needs_factory
@pytest.mark.parametrize("kind", [dspy.ProgramOfThought, dspy.CodeAct])
def test_modules_on_a_factory(kind: Any) -> None:
    """Each forward pass gets a kernel and ends it."""
    args: tuple[Any, ...] = ([double],) if kind is dspy.CodeAct else ()
    module = kind("question -> answer", *args, interpreter_factory=KernelInterpreter)
    lm = model(generated_code="print(6 * 7)", finished="True", answer=lambda prompt: "yes" if "42" in prompt else "no")
    with dspy.context(lm=lm):
        assert module(question="?").answer == "yes"


def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


def test_code_act(interp: KernelInterpreter) -> None:
    """Its tools are defined in the kernel by their source, and their prints are its observations."""
    own = interp if TAKES_FACTORY else interp.spawn()
    lm = model(
        generated_code="print(double(21))", finished="True", answer=lambda prompt: "yes" if "42" in prompt else "no"
    )
    with dspy.context(lm=lm):
        result = owned(dspy.CodeAct, "question -> answer", own, [double], question="?")
    assert result.answer == "yes"
    assert result.trajectory["code_output_0"] == '"42\\n"'


# --- Flex -----------------------------------------------------------------------------------------------

FLEX_SOURCE = """
import dspy
class Noisy(dspy.Module):
    def __init__(self):
        super().__init__()
        self.inner = dspy.Predict("q -> b")
    def forward(self, q):
        print("noise")
        return dspy.Prediction(a=f"{self.inner(q=q).b} {shout(text='5')}")
"""


def shout(text: str) -> str:
    """Return the text in capitals."""
    return text.upper() + "!"


@pytest.mark.skipif(not hasattr(dspy, "Flex"), reason="DSPy before 3.3 has no Flex")
def test_flex_runs_its_source_in_the_kernel() -> None:
    """Prints of the generated module do not affect its result; predictors and tools are passed as names."""
    flex = dspy.Flex("q -> a", tools=[shout], interpreter_factory=KernelInterpreter)
    flex.load_state({"module_src": FLEX_SOURCE})
    with dspy.context(lm=model(b="from the host")):
        assert flex(q="?").a == "from the host 5!"


@pytest.mark.skipif(not hasattr(dspy, "Flex"), reason="DSPy before 3.3 has no Flex")
def test_flex_gets_custom_types_back() -> None:
    """An image crosses as its text and is the original object again where the host's predictor takes it."""
    image = dspy.Image("https://example.org/cat.png")
    flex = dspy.Flex("picture: dspy.Image -> a", interpreter_factory=KernelInterpreter)
    with dspy.context(lm=model(a="a cat")):
        assert flex(picture=image).a == "a cat"


@pytest.mark.skipif(not hasattr(dspy, "Flex"), reason="DSPy before 3.3 has no Flex")
def test_flexs_baseline_with_tools_is_an_rlm() -> None:
    """The RLM that Flex builds in the sandbox gets a kernel of its own on the same factory."""
    flex = dspy.Flex("q -> a", tools=[shout], interpreter_factory=KernelInterpreter)
    with dspy.context(lm=model(code="SUBMIT(shout(q))")):
        assert flex(q="hi").a == "HI!"


# --- the sandbox's dspy ---------------------------------------------------------------------------------


@needs_facade
@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("dspy.Predict('q -> b')(q=q).b", "B"),
        ("dspy.ChainOfThought(dspy.Signature('q -> b', 'Be short.'))(q=q).b", "B"),
        ("dspy.RLM('q -> c')(q=q).c", "C"),
        ("dspy.Predict('q -> b: dict[str, int]')(q=q).b", {"n": 1}),
    ],
)
def test_sub_agents(interp: KernelInterpreter, code: str, answer: Any) -> None:
    """``import dspy`` in the kernel builds predictors that run on the host, in RLM and in RLM's own sub-RLM."""

    typed = "dict[" in code
    if "RLM" in code:  # the inner one gets the same code to run
        code = f"{code} if q == 'outer' else 'C'".replace("q=q", "q='inner'")
    lm = model(code=f"import dspy\nSUBMIT({code})", b='{"n": 1}' if typed else "B")
    with dspy.context(lm=lm):
        assert RLM("q -> a: dict[str, int]" if typed else "q -> a", interpreter=interp)(q="outer").a == answer


@needs_facade
def test_a_react_sub_agent_uses_the_hosts_tools(interp: KernelInterpreter) -> None:
    """``tools=[shout]`` crosses as the name of the stub that the kernel holds."""
    turns = iter([("shout", '{"text": "hi"}'), ("submit", '{"b": "heard HI!"}')])
    shouted: list[str] = []

    def calls(prompt: str) -> str:
        name, arguments = next(turns)
        return f'{{"tool_calls": [{{"name": "{name}", "args": {arguments}}}]}}'

    def shout(text: str) -> str:
        """Return the text in capitals."""
        shouted.append(text)
        return text.upper()

    code = "import dspy\nSUBMIT(dspy.ReActV2('q -> b', tools=[shout])(q=q).b)"
    with dspy.context(lm=model(code=code, tool_calls=calls, next_thought="Think.")):
        assert RLM("q -> a", interpreter=interp, tools=[shout])(q="hi").a == "heard HI!"
    assert shouted == ["hi"]


@needs_facade
def test_five_nested_sub_agents_do_not_deadlock(interp: KernelInterpreter) -> None:
    """Each RLM starts its sub-RLM inside a tool call, on the factory of the first: six kernels are up at once."""
    code = (
        "import dspy\nSUBMIT('bottom' if depth == 0 else f\"{dspy.RLM('depth: int -> a')(depth=depth - 1).a} {depth}\")"
    )
    with dspy.context(lm=model(code=code)):
        assert RLM("depth: int -> a", interpreter=interp)(depth=5).a == "bottom 1 2 3 4 5"


def test_five_nested_runs_do_not_deadlock() -> None:
    """On every DSPy: a host tool that runs the next RLM, on an interpreter of its own or the same factory."""

    def deeper(depth: int) -> str:
        """Run an RLM one level deeper."""
        return str(run(depth).a)

    def run(depth: int) -> Any:
        code = "SUBMIT('bottom' if depth == 0 else f'{deeper(depth - 1)} {depth}')"
        with contextlib.ExitStack() as stack:
            stack.enter_context(dspy.context(lm=model(code=code)))
            if TAKES_FACTORY:
                return RLM("depth: int -> a", tools=[deeper], interpreter_factory=KernelInterpreter)(depth=depth)
            own = stack.enter_context(KernelInterpreter())
            return RLM("depth: int -> a", tools=[deeper], interpreter=own)(depth=depth)

    assert run(5).a == "bottom 1 2 3 4 5"


# --- inputs and outputs ---------------------------------------------------------------------------------


class Person(pydantic.BaseModel):
    """A record in and out."""

    name: str
    age: int


def signature(outputs: dict[str, Any], **inputs: Any) -> Any:
    fields = {name: (kind, dspy.InputField()) for name, kind in inputs.items()}
    return dspy.Signature({**fields, **{name: (kind, dspy.OutputField()) for name, kind in outputs.items()}})


def test_pydantic_models_in_and_out(interp: KernelInterpreter) -> None:
    """A model arrives as a record with attributes, and what SUBMIT gives becomes one again."""
    code = "SUBMIT(older={'name': person.name, 'age': person['age'] + 1}, names=[person.name])"
    with dspy.context(lm=model(code=code)):
        result = RLM(signature({"older": Person, "names": list[str]}, person=Person), interpreter=interp)(
            person=Person(name="Ann", age=41)
        )
    assert result.older == Person(name="Ann", age=42)
    assert result.names == ["Ann"]


def test_custom_types_in(interp: KernelInterpreter) -> None:
    """History arrives with its messages; an image as the text that DSPy makes of it, whole."""

    url = "data:image/png;base64," + base64.b64encode(bytes(range(256))).decode()
    code = f"SUBMIT(f\"{{history.messages[0]['q']}} {{{url!r} in picture}}\")"
    with dspy.context(lm=model(code=code)):
        custom = signature({"a": str}, history=dspy.History, picture=dspy.Image)
        result = RLM(custom, interpreter=interp)(
            history=dspy.History(messages=[{"q": "earlier"}]), picture=dspy.Image(url=url)
        )
    assert result.a == "earlier True"


@needs_factory
@pytest.mark.parametrize("payload", ["text", "binary"])
def test_sandbox_serializable_inputs(interp: KernelInterpreter, payload: str) -> None:
    """Text arrives as text, binary data whole (20 MB of it, as one base64 string), whatever bytes it holds."""
    from dspy.primitives.sandbox_serializable import SandboxSerializable

    class Rows(SandboxSerializable):
        def sandbox_setup(self) -> str:
            return "import zlib"

        def to_sandbox(self) -> bytes:
            return b"a,b\n1,2\n" * 100 if payload == "text" else bytes(range(256)) * (80 << 10)

        def sandbox_assignment(self, var_name: str, data_expr: str) -> str:
            return f"{var_name} = {data_expr}"

        def rlm_preview(self, max_chars: int = 500) -> str:
            return "rows"

    with dspy.context(lm=model(code="SUBMIT(len(rows), type(rows).__name__)")):
        count = signature({"n": int, "kind": str}, rows=Rows)
        result = RLM(count, interpreter=interp)(rows=Rows())
    assert (result.n, result.kind) == ((800, "str") if payload == "text" else (20 << 20, "bytes"))
