"""The demo: an RLM works on a text that does not fit into a prompt, and each step is shown as it happens.

Kernel, bridge and DSPy are always real. Without ``--model`` the language model is a script (:mod:`.script`), and the
demo says so, whatever keys the environment has. Only ``daytona-kernel demo`` uses this package; nothing else may
import it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT_MODEL = "openrouter/google/gemini-3-flash-preview"
INSTALL = 'pip install -e ".[demo]"'

REFERENCE_QUESTION = "Which mistakes does Python's own reference warn of, and which exceptions do they raise?"
FILE_QUESTION = "What is this text about, and what are its main points?"

# Providers whose key is in the environment variable PROVIDER_API_KEY. Another one may need none, such as ollama.
_PROVIDERS = frozenset({"anthropic", "deepseek", "gemini", "groq", "mistral", "openai", "openrouter", "xai"})


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
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidDemoOptions(f"The demo draws a figure, which needs matplotlib: {INSTALL}")
    if options.model is None and (options.file is not None or options.question is not None):
        raise InvalidDemoOptions("--file and --question need --model: the script knows one text and one question only.")
    model = None if options.model is None else options.model or DEFAULT_MODEL
    if options.file is None:
        name, text, question = "Python's reference (pydoc_data.topics)", reference_text(), REFERENCE_QUESTION
    else:
        name, text, question = str(options.file), _read(options.file), FILE_QUESTION
    if model is not None:
        _require_key(model)

    from .session import run_task

    run_task(dataclasses.replace(options, model=model, question=options.question or question), name, text)


def reference_text() -> str:
    """Return the reference that is part of every Python, one ``## name`` section for each topic."""
    from pydoc_data.topics import topics

    return "\n\n".join(f"## {name}\n\n{body.strip()}" for name, body in sorted(topics.items()))


def _require_key(model: str) -> None:
    from dotenv import find_dotenv, load_dotenv

    load_dotenv(find_dotenv(usecwd=True))
    provider = model.partition("/")[0]
    variable = f"{provider.upper()}_API_KEY"
    if provider in _PROVIDERS and not os.environ.get(variable):
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
