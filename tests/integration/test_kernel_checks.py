"""jupyter_kernel_test, Jupyter's checks of kernels, through the tunnel.

Its check of a range of the history is omitted: ipykernel 7.4 with IPython 9.18 fails it (it answers with session 0).
"""

from __future__ import annotations

from typing import Any, ClassVar

import jupyter_kernel_test  # type: ignore[import-untyped]
import pytest

from tests.integration.jupyter_programs import LOCAL, install

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class TestKernel(jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    """The checks that apply to IPython."""

    kernel_name = LOCAL
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples: ClassVar[list[dict[str, Any]]] = [{"text": "zi", "matches": {"zip"}}]
    complete_code_samples: ClassVar[list[str]] = ["1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n"]
    incomplete_code_samples: ClassVar[list[str]] = ["print('''hello", "def f(x):\n  x*2"]
    invalid_code_samples: ClassVar[list[str]] = ["import = 7q"]
    code_page_something = "zip?"
    code_generate_error = "raise"
    code_execute_result: ClassVar[list[dict[str, str]]] = [
        {"code": "1+2+3", "result": "6"},
        {"code": "[n*n for n in range(1, 4)]", "result": "[1, 4, 9]"},
    ]
    code_display_data: ClassVar[list[dict[str, str]]] = [
        {"code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))", "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math('x'))", "mime": "text/latex"},
    ]
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    @classmethod
    def setUpClass(cls) -> None:
        install(LOCAL, sandbox="local")
        super().setUpClass()


class TestWelcome(jupyter_kernel_test.IopubWelcomeTests):  # type: ignore[misc]
    """The check of the welcome message for subscribers (ipykernel 7)."""

    kernel_name = LOCAL
    support_iopub_welcome = True

    @classmethod
    def setUpClass(cls) -> None:
        install(LOCAL, sandbox="local")
        super().setUpClass()
