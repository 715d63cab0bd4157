"""Tests of ``sandboxes.option_checks`` by the descriptions that use it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from daytona_kernel_interp import DaytonaSandbox, KernelImage, LocalSandbox, RelaySandbox


@pytest.mark.parametrize(
    ("sandbox", "options", "error", "words"),
    [
        (LocalSandbox, {"python": ""}, ValueError, "python must not be empty"),
        (LocalSandbox, {"cwd": 5}, TypeError, "cwd must be a path, not 5"),
        (LocalSandbox, {"env": {"A": 1}}, TypeError, "env must have texts as names and as values"),
        (LocalSandbox, {"resume_lifetime": -1}, ValueError, "must be a positive number of seconds, not -1"),
        (LocalSandbox, {"folder": "/"}, TypeError, "LocalSandbox has no option 'folder': pass cwd="),
        (LocalSandbox, {"pythn": "x"}, TypeError, "no option 'pythn'; did you mean 'python'"),
        (RelaySandbox, {"url": 5, "token": "t"}, TypeError, "url must be a text, not 5"),
        (RelaySandbox, {"url": "ws://host/path", "token": "t"}, ValueError, "url must be like wss://host"),
        (RelaySandbox, {"url": "ws://host", "token": ""}, ValueError, "token must be the secret .* it is empty"),
        (RelaySandbox, {"url": "ws://host", "token": b"t"}, TypeError, "token must be a text, not bytes"),
        (RelaySandbox, {"url": "ws://host", "token": "t", "headers": []}, TypeError, "headers must be a mapping"),
        (RelaySandbox, {"url": "ws://host", "token": "t", "resume_lifetime": 0}, ValueError, "a positive number"),
        (RelaySandbox, {"url": "ws://host", "secret": "t"}, TypeError, "no option 'secret': pass token="),
        (KernelImage, {"packages": "numpy"}, TypeError, "a tuple of requirements, not the text 'numpy'"),
        (KernelImage, {"packages": (5,)}, TypeError, "texts such as 'torch>=2', not 5"),
        (KernelImage, {"packages": ("two words",)}, ValueError, "not 'two words'"),
        (KernelImage, {"packages": ("-r file",)}, ValueError, "not '-r file'"),
        (KernelImage, {"packages": ("a\nb",)}, ValueError, "requirements such as"),
        (KernelImage, {"data": 1}, TypeError, "data must be True or False, not 1"),
    ],
)
def test_each_option_is_checked(sandbox: Any, options: dict[str, Any], error: type[Exception], words: str) -> None:
    """One sentence, when the description is made."""
    with pytest.raises(error, match=words) as caught:
        sandbox(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "requirement",
    [
        "numpy",
        "torch>=2",
        "torch >= 2, <3",
        "a[b,c]==1",
        "x ; python_version < '3.12'",
        "x @ https://h/x.whl",
        "git+https://h/r",
    ],
)
def test_requirements_of_pip_are_taken(requirement: str) -> None:
    """With versions, extras, markers and URLs."""
    assert KernelImage((requirement,)).packages == (requirement,)


def test_the_signature_stays_that_of_the_dataclass() -> None:
    """Editors and ``help`` show the options."""
    assert list(inspect.signature(LocalSandbox).parameters) == ["python", "cwd", "env", "resume_lifetime"]
    assert "auto_stop_interval" in inspect.signature(DaytonaSandbox).parameters
    assert LocalSandbox("python3", Path("/x")) == LocalSandbox(python="python3", cwd=Path("/x"))
