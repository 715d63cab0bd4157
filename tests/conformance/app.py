"""An HTTP and WebSocket server for a sandbox that reports the requests it receives. Standard library only."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sys

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


seen: list[str] = []  # the targets of all requests


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await answer(reader, writer):
            pass
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = [line.split(": ", 1) for line in lines]
    known = {name.lower(): value for name, value in headers}
    if known.get("upgrade", "").lower() == "websocket":
        await echo(reader, writer, known)
        return False
    body = await read_body(reader, known)
    seen.append(target)
    if target.startswith("/die"):
        return False
    status, payload = 200, json.dumps({"method": method, "target": target, "headers": headers, "bytes": len(body)})
    if target.startswith("/status/"):
        status = int(target.split("/")[2])
    if target == "/seen":
        payload = json.dumps(seen)
    if target.startswith("/big/"):
        payload = "x" * int(target.split("/")[2])
    headers_out = "Set-Cookie: own=1\r\nX-App: yes\r\n" if target.startswith("/cookie") else "X-App: yes\r\n"
    data = payload.encode()
    writer.write(f"HTTP/1.1 {status} Said\r\n{headers_out}Content-Length: {len(data)}\r\n\r\n".encode())
    if method != "HEAD":
        writer.write(data)
    await writer.drain()
    return True


async def read_body(reader: asyncio.StreamReader, known: dict[str, str]) -> bytes:
    if known.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(known.get("content-length", "0")))
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, known: dict[str, str]) -> None:
    accept = base64.b64encode(hashlib.sha1(known["sec-websocket-key"].encode() + GUID).digest()).decode()
    protocol = known.get("sec-websocket-protocol", "").split(",")[0].strip()
    chosen = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
    upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    writer.write(f"{upgrade}Sec-WebSocket-Accept: {accept}\r\n{chosen}\r\n".encode())
    send(writer, TEXT, json.dumps(known).encode())  # at once: it may travel with the head
    while True:
        opcode, payload = await receive(reader)
        if opcode == CLOSE:
            send(writer, CLOSE, payload)
            return
        if payload == b"close me":
            send(writer, CLOSE, (4321).to_bytes(2, "big") + b"asked for")
            return
        if payload == b"drop me":
            writer.transport.abort()
            return
        send(writer, PONG if opcode == PING else opcode, payload)
        await writer.drain()


async def receive(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    message, kind = b"", 0
    while True:
        first, second = await reader.readexactly(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
        mask = await reader.readexactly(4)
        data = await reader.readexactly(size)
        whole = int.from_bytes(data, "little") ^ int.from_bytes((mask * (size // 4 + 1))[:size], "little")
        message += whole.to_bytes(size, "little")
        kind = kind or first & 0x0F
        if first & 0x80:
            return kind, message


def send(writer: asyncio.StreamWriter, opcode: int, payload: bytes) -> None:
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, size])
    elif size < 1 << 16:
        head = bytes([0x80 | opcode, 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 127]) + size.to_bytes(8, "big")
    writer.write(head + payload)


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), limit=1 << 20)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
