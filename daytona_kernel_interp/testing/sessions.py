"""Toolbox sessions: long-lived shells that run commands one after the other, each with a log."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .model import Refused
from .pipes import reader_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .processes import Child, Machine

ENTRYPOINT = "entrypoint"
STDOUT, STDERR = b"\x01\x01\x01", b"\x02\x02\x02"  # prefixes of stdout and stderr text in a followed log
_GRACE_S = 5.0  # between SIGTERM and SIGKILL when a session is deleted
_LINE_BYTES = 1 << 20


@dataclass(eq=False)
class Command:
    """One command of a session."""

    id: str
    text: str
    exit_code: int | None = None
    log: list[tuple[bytes, bytes]] = field(default_factory=list)  # (stream, line)
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # exit code known and both streams at EOF
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def output(self, *streams: bytes) -> str:
        """Return the output of one stream or of all, in order of arrival."""
        return b"".join(line for stream, line in self.log if stream in streams).decode("utf-8", "replace")

    def write(self, stream: bytes, line: bytes) -> None:
        """Append to the log and notify followers."""
        self.log.append((stream, line))
        self.tell()

    def tell(self) -> None:
        """Notify followers."""
        self.news.set()
        self.news = asyncio.Event()


class Session:
    """A shell in its own process group."""

    def __init__(self, session_id: str, folder: Path, machine: Machine) -> None:
        self.id, self.folder, self._machine = session_id, folder, machine
        self.commands: dict[str, Command] = {}
        self.shell: Child
        self._stdin: int = -1
        self._readers: set[asyncio.ReadTransport] = set()
        self._lines = asyncio.Queue[bytes]()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, env: Mapping[str, str], cwd: Path) -> None:
        """Start the shell."""
        self.folder.mkdir(parents=True)
        ours, theirs = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        try:
            self.shell = await self._machine.spawn([shell()], env, cwd, (ours, null, null))
        except BaseException:
            os.close(theirs)
            raise
        finally:
            os.close(ours)
            os.close(null)
        self._stdin = theirs
        self._task(self._feed())
        self._task(self._watch_status())
        self._task(self._watch_shell())

    async def run(self, text: str, *, wait: bool = False, command_id: str | None = None) -> Command:
        """Queue a command. With ``wait`` it has an empty standard input, and the call waits for its end.

        Raises:
            Refused: If the shell has ended.
        """
        if self.shell.exited.done():
            raise Refused(410, "session has ended", code="GONE")
        command = Command(command_id or str(uuid.uuid4()), text)
        folder = self.folder / str(len(self.commands))
        folder.mkdir()
        self.commands[command.id] = command
        (folder / "command").write_text(text + "\n", encoding="utf-8", errors="surrogateescape")
        streams = [
            self._task(self._read(command, stream, await self._open(folder / name)))
            for name, stream in (("out", STDOUT), ("err", STDERR))
        ]
        if not wait:
            os.mkfifo(folder / "in")
        source = "/dev/null" if wait else f"{folder}/in"
        # Opened read-write, a FIFO without a writer neither blocks on open nor reports EOF.
        redirect = "<" if wait else "<>"
        line = f"{{ . '{folder}/command'; }} 0{redirect}'{source}' 1>'{folder}/out' 2>'{folder}/err'"
        self._lines.put_nowait(f"{line}; echo \"{command.id} $?\" > '{self.folder}/status'\n".encode())
        self._task(self._end(command, streams))
        if wait:
            await command.ended.wait()
        return command

    async def delete(self) -> None:
        """End the shell and its descendants: with SIGTERM, then with SIGKILL."""
        if not self.shell.exited.done():
            await self._machine.end_tree(self.shell.pid, _GRACE_S)
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Close this process's resources of the session."""
        for task in self._tasks:
            task.cancel()
        for reader in self._readers:
            reader.close()
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    def _task(self, work: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _open(self, path: Path) -> asyncio.StreamReader:
        os.mkfifo(path)
        return await self._reader(os.open(path, os.O_RDONLY | os.O_NONBLOCK))

    async def _reader(self, fd: int) -> asyncio.StreamReader:
        reader, transport = await reader_of(fd, _LINE_BYTES)
        self._readers.add(transport)
        return reader

    async def _read(self, command: Command, stream: bytes, reader: asyncio.StreamReader) -> None:
        # Line by line, as the daemon labels them; an incomplete last line is sent at EOF.
        while True:
            try:
                line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    command.write(stream, error.partial)
                return
            except asyncio.LimitOverrunError as error:
                line = await reader.readexactly(error.consumed)
            command.write(stream, line)

    async def _feed(self) -> None:
        while True:
            line = await self._lines.get()
            await asyncio.to_thread(_write_all, self._stdin, line)

    async def _watch_status(self) -> None:
        path = self.folder / "status"
        os.mkfifo(path)
        reader = await self._reader(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        while line := await reader.readline():
            command_id, _, code = line.decode().strip().rpartition(" ")
            if (command := self.commands.get(command_id)) is not None:
                command.exit_code = int(code)
                command.tell()

    async def _watch_shell(self) -> None:
        code = await self.shell.exited
        unfinished = [command for command in self.commands.values() if command.exit_code is None]
        for position, command in enumerate(unfinished):
            command.exit_code = code if code >= 0 else 128 - code
            # The first command ran; its log ends when its child processes have closed it. The others never ran.
            if position > 0:
                command.ended.set()
            command.tell()

    async def _end(self, command: Command, streams: list[asyncio.Task[None]]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(streams)
        while command.exit_code is None:
            await command.news.wait()
        command.ended.set()
        command.tell()


class Sessions:
    """The sessions of one started sandbox; a stop ends all of them."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.known: dict[str, Session] = {}
        self._machine, self._folder = machine, folder
        shutil.rmtree(folder, ignore_errors=True)
        machine.gone.add_done_callback(self._close)

    async def create(self, session_id: str, env: Mapping[str, str], cwd: Path) -> Session:
        """Start a session.

        Raises:
            Refused: If there is a session with this id.
        """
        if session_id in self.known:
            raise Refused(409, "session already exists", code="CONFLICT")
        session = Session(session_id, self._folder / uuid.uuid4().hex[:8], self._machine)
        self.known[session_id] = session
        try:
            await session.start(env, cwd)
        except BaseException:
            del self.known[session_id]
            raise
        return session

    def find(self, session_id: str) -> Session:
        """Return a session.

        Raises:
            Refused: If there is none.
        """
        if session_id not in self.known:
            raise Refused(404, "session not found", code="NOT_FOUND")
        return self.known[session_id]

    def _close(self, _: object) -> None:
        for session in self.known.values():
            session.close()

    async def delete(self, session_id: str) -> None:
        """End a session and remove it."""
        session = self.find(session_id)
        await session.delete()
        self.known.pop(session_id, None)


def shell() -> str:
    """Return the first available shell in the service's order."""
    return shutil.which("zsh") or shutil.which("bash") or "/bin/sh"


def _write_all(fd: int, data: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, data)
