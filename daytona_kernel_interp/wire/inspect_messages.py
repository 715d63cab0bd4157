"""The inspect messages of kernel and relay: JSON objects, with their limits.

The host asks the kernel by a ``comm_msg`` on *control* (``op`` is ``inspect``), which ipykernel reads on a thread of
its own, also while a cell runs; the kernel replies on control and publishes nothing. The relay is asked at the same
time (operation ``look`` of the control stream, see :mod:`.comm`) and answers :data:`KERNEL_ANSWER_S` later, unless
the host said ``enough`` before: native code can hold the kernel's interpreter lock for hours.

==========  =================================================================================================
kernel      ``variables``: rows as of :data:`ROW`; ``left_out``: how many more there are; ``tools``: names that the
            host offers; ``count``: cells taken up; ``running``: None, or ``cell`` msg_id, ``code``, ``number``,
            ``elapsed_s``, ``line`` or None, ``calls`` [[name, seconds]], ``tasks`` [text]
relay       ``cpu_percent`` and ``memory_bytes`` of the kernel's process, or None
host        in the relay's answer: ``summary``: the kernel's last answer to this host, or None; ``age_s`` of it;
            ``running``: None, or of a cell of this host ``cell``, ``code``, ``number``, ``elapsed_s``, ``calls``
==========  =================================================================================================

With ``name`` in the question, ``variables`` is that variable's row, with a longer preview: its own ``repr`` if no cell
runs and that would not be too much; ``missing`` is true if there is none. With ``value`` also true, its encoding is in
the buffers of the answer, or ``refused`` says why not.
"""

from __future__ import annotations

ROW = ("name", "type", "size", "shape", "preview", "kind")  # size in bytes or None; shape a list of ints or None
KINDS = ("variable", "function", "class", "module")

MAX_VARIABLES = 1000
MAX_INSPECT_BYTES = 400_000  # of the rows together, as JSON; a line of the relay's stream has 1 MiB
PREVIEW_CHARS = 100
NAMED_CHARS = 10_000  # of one variable, asked for by name
CODE_CHARS = 4000
MAX_CALLS = 200  # of a cell's calls under way, and of its tasks

KERNEL_ANSWER_S = 0.15  # for the kernel; then the relay speaks
REPR_S = 1.0  # for a variable's own repr
