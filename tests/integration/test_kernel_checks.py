"""jupyter_kernel_test, Jupyter's own checks of kernels: ours through the tunnel, and ipykernel's beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jupyter_kernel_test
import pytest

from tests.integration.jupyter_programs import install_kernelspecs

if TYPE_CHECKING:
    from typing import Any

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class IPythonChecks(jupyter_kernel_test.KernelTests):
    """Every check that IPython has something to show for; the samples are those of ipykernel's own tests."""

    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples: list[dict[str, Any]] = [  # noqa: RUF012 - as the base class has it
        {"text": "zi", "matches": {"zip"}},
        {"text": "sy", "matches": {"sys"}},
    ]
