"""The demo: an RLM at work on a text that fits in no prompt, every step shown as it happens.

Kernel, bridge and DSPy are always real. Without ``--model`` the language model is a script (:mod:`.script`), and the
demo says so; no key in the environment changes that.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT_MODEL = "openrouter/google/gemini-3-flash-preview"
INSTALL = 'pip install -e ".[demo]"'

REFERENCE_QUESTION = "Which mistakes does Python's own reference warn of, and which exceptions do they raise?"
FILE_QUESTION = "What is this text about, and what are its main points?"

# The variable that a provider's key is looked for in. A provider that is not here may need none, such as ollama.
KEYS = {
    "anthropic": "ANTHROPIC_API_KEY",
    "deepseek": "DEEPSEEK_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "groq": "GROQ_API_KEY",
    "mistral": "MISTRAL_API_KEY",
    "openai": "OPENAI_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
    "xai": "XAI_API_KEY",
}


class InvalidDemoOptions(Exception):
    """The options cannot be followed; the message is one sentence."""


class DemoFailed(Exception):
    """The run ended without an answer; the message is one sentence."""


@dataclass(frozen=True)
class DemoOptions:
    """What the user asked for. ``model``: None is the script, ``""`` the default model."""

    model: str | None = None
    file: Path | None = None
    question: str | None = None
    output: Path = Path("demo-output")
    record: Path | None = None


def run(options: DemoOptions) -> None:
    """Run the demo to its answer.

    Raises:
        InvalidDemoOptions: If the options cannot be followed; nothing was started.
        Failed: If there is no answer.
    """
    _require_matplotlib()
    if options.model is None and (options.file is not None or options.question is not None):
        raise InvalidDemoOptions("--file and --question need --model: the script knows one text and one question only.")
    model = None if options.model is None else options.model or DEFAULT_MODEL
    text = reference_text() if options.file is None else _read(options.file)
    if model is not None:
        _require_key(model)
    default = REFERENCE_QUESTION if options.file is None else FILE_QUESTION
    name = "Python's reference (pydoc_data.topics)" if options.file is None else str(options.file)

    from .session import DemoTask, run_task

    run_task(DemoTask(name, text, options.question or default, model, options.output, options.record))


def reference_text() -> str:
    """Return the reference that every Python brings along, one ``## name`` section for each topic."""
    from pydoc_data.topics import topics

    return "\n\n".join(f"## {name}\n\n{body.strip()}" for name, body in sorted(topics.items()))


def _require_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidDemoOptions(f"The demo draws a figure and matplotlib is not installed here: {INSTALL}")


def _require_key(model: str) -> None:
    from dotenv import find_dotenv, load_dotenv

    load_dotenv(find_dotenv(usecwd=True))
    variable = KEYS.get(model.partition("/")[0])
    if variable is not None and not os.environ.get(variable):
        raise InvalidDemoOptions(f"{model} needs a key: set {variable} in .env or in the environment.")


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidDemoOptions(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InvalidDemoOptions(f"{path} is not text in UTF-8.") from error
    if not text.strip():
        raise InvalidDemoOptions(f"{path} is empty.")
    return text
