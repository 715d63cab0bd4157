"""The demo: an RLM works on a text that does not fit into a prompt, and each step is shown as it happens.

Kernel, bridge and DSPy are always real. Without ``--model`` the language model is a script (:mod:`.script`), and the
demo says so, whatever keys the environment has. Only ``daytona-kernel demo`` uses this package; nothing else may
import it.
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

# The environment variable with a provider's key. A provider that is not listed may need none, such as ollama.
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
    """Options that cannot be used; the message is one sentence."""


class DemoFailed(Exception):
    """A run that ended without an answer; the message is one sentence."""


@dataclass(frozen=True)
class DemoOptions:
    """The options of a run. ``model``: None for the script, ``""`` for the default model."""

    model: str | None = None
    file: Path | None = None
    question: str | None = None
    output: Path = Path("demo-output")
    record: Path | None = None


def run(options: DemoOptions) -> None:
    """Run the demo to its answer.

    Raises:
        InvalidDemoOptions: If the options cannot be used; nothing was started.
        DemoFailed: If there is no answer.
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
    """Return the reference that is part of every Python, one ``## name`` section for each topic."""
    from pydoc_data.topics import topics

    return "\n\n".join(f"## {name}\n\n{body.strip()}" for name, body in sorted(topics.items()))


def _require_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidDemoOptions(f"The demo draws a figure, which needs matplotlib: {INSTALL}")


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
