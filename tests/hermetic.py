"""The environment that tests run in: no keys, no ``.env``, no folder of the user's.

The Makefile sets the same for what it starts; this holds when pytest is started by hand.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from pathlib import Path

# Whatever could reach a paid service or steer where requests go. The last names are those of
# cloud credentials that litellm reads and that end in none of the usual ways.
_SECRET = re.compile(
    r"DAYTONA_.*|(OPENAI|ANTHROPIC|OPENROUTER|LITELLM|DSPY|JUPYTER|IPYTHON)_.*"
    r"|.*_(API_KEY|API_TOKEN|AUTH_TOKEN|API_BASE|BASE_URL|API_URL)"
    r"|(AWS|AZURE|VERTEX|VERTEXAI)_.*|GOOGLE_APPLICATION_CREDENTIALS|HF_TOKEN"
)
_OWN_FOLDERS = {
    "DSPY_CACHEDIR": "dspy",
    "MPLCONFIGDIR": "matplotlib",
    "IPYTHONDIR": "ipython",
    "JUPYTER_RUNTIME_DIR": "jupyter/runtime",
    "JUPYTER_DATA_DIR": "jupyter/data",
    "JUPYTER_CONFIG_DIR": "jupyter/config",
}
_LOOPBACK = "127.0.0.1,localhost,::1"


def isolate(environ: MutableMapping[str, str], folder: Path) -> dict[str, str]:
    """Take keys out of ``environ``, point its folders below ``folder``, and return what was taken out.

    Call it before dspy is imported: dspy and litellm read most of this once, at import.
    """
    taken = {name: environ.pop(name) for name in list(environ) if _SECRET.fullmatch(name)}
    for name, below in _OWN_FOLDERS.items():
        path = folder / below
        # Jupyter warns of a runtime folder that others can read.
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        environ[name] = str(path)
    environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else litellm fetches its price list at import
    environ["PYTHON_DOTENV_DISABLED"] = "1"
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process of a test compiles what it imports anew
    sys.dont_write_bytecode = False
    environ["MPLBACKEND"] = "agg"
    for name in ("NO_PROXY", "no_proxy"):
        environ[name] = _LOOPBACK
    return taken
