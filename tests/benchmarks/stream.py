"""Runs in a sandbox: after an upgrade it echoes, sends, or swallows bytes. Standard library only."""

from __future__ import annotations

import socket
import sys
import threading

PIECE = bytes(1 << 20)


def serve(made: socket.socket) -> None:
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += made.recv(4096)
    target = head.split(b" ", 2)[1].decode()
    made.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
    if target == "/echo":
        while data := made.recv(65536):
            made.sendall(data)
        return
    count = int(target.rpartition("/")[2])
    if target.startswith("/send/"):
        for _ in range(count):
            made.sendall(PIECE)
    else:
        left, buffer = count * len(PIECE), bytearray(1 << 20)
        while left and (size := made.recv_into(buffer)):
            left -= size
        made.sendall(b".")
    made.recv(1)


def main() -> None:
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
        while True:
            made, _ = server.accept()
            threading.Thread(target=serve, args=(made,), daemon=True).start()


if __name__ == "__main__":
    main()
