"""A Jupyter client in a process of its own: ``python -m tests.benchmarks.sender FILE MESSAGES BYTES``.

Sends messages with a buffer of so many random bytes to the kernel of a connection file, waits for the reply to each,
and prints how many seconds that took.
"""

from __future__ import annotations

import os
import sys
import time

from jupyter_client.blocking.client import BlockingKernelClient

_REPLY_S = 60.0


def main() -> None:
    path, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    client = BlockingKernelClient()
    client.load_connection_file(path)
    client.start_channels(iopub=False, stdin=False, hb=False, control=False)
    content = {"code": "", "silent": True, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    client.kernel_info()
    client.get_shell_msg(timeout=_REPLY_S)
    data = os.urandom(size)
    begin = time.perf_counter()
    for _ in range(count):
        message = client.session.msg("execute_request", content)
        client.session.send(client.shell_channel.socket, message, buffers=[data])
    for _ in range(count):
        client.get_shell_msg(timeout=_REPLY_S)
    print(time.perf_counter() - begin)
    client.stop_channels()


if __name__ == "__main__":
    main()
