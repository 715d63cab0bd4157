"""The toolbox: the daemon of a sandbox, one method per operation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from . import commands
from .bodies import ARRAY, BOOLEAN, INTEGER, OBJECT, STRING, daemon_error, port_in, read_object, string_map
from .files import Files, info
from .interpreters import Interpreters
from .model import Record, Refused
from .operations import TOOLBOX, match
from .processes import Machine, MachineGone
from .sessions import ENTRYPOINT, STDERR, STDOUT, Command, Session

if TYPE_CHECKING:
    from pathlib import Path

    from .world import Box, World

EXEC_S = 360.0  # default timeout of a command
_HEARTBEAT_S = 20.0


class Call:
    """One request to a sandbox's daemon, with its context."""

    def __init__(self, world: World, record: Record, request: web.Request, parameters: Mapping[str, str]) -> None:
        box = world.boxes[record.id]
        if box.machine is None or box.sessions is None or box.machine.gone.done():
            raise MachineGone
        self.world, self.record, self.request, self.parameters = world, record, request, parameters
        self.box: Box = box
        self.machine: Machine = box.machine
        self.sessions = box.sessions

    @property
    def env(self) -> dict[str, str]:
        """The environment variables of the sandbox's processes."""
        return self.world.environment(self.record)

    @property
    def files(self) -> Files:
        """The sandbox's files."""
        return Files(self.box.folder, self.box.workdir)

    def query(self, name: str) -> str:
        """Return a query parameter; empty if it was not given."""
        return self.request.query.get(name, "")


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class Toolbox:
    """The daemons of all sandboxes of a service."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._interpreters: dict[Machine, Interpreters] = {}
        prefix = "_op_"
        self._handlers: dict[str, Handler] = {
            name.removeprefix(prefix): getattr(self, name) for name in dir(self) if name.startswith(prefix)
        }

    def served(self) -> set[str]:
        """Return the names of the operations that are served."""
        return set(self._handlers)

    def name_of(self, method: str, path: str) -> str | None:
        """Return the name of a request's operation, or None."""
        found = match(TOOLBOX, method, path)
        return None if found is None else found[0].name

    async def handle(self, record: Record, request: web.Request, path: str) -> web.StreamResponse:
        """Return the response to a request to a sandbox's daemon.

        Raises:
            MachineGone: If the daemon has ended.
        """
        found = match(TOOLBOX, request.method, path)
        try:
            if found is None:
                return web.Response(status=404, text="404 page not found")
            operation, parameters = found
            handler = self._handlers.get(operation.name)
            if handler is None:
                raise Refused(501, f"The emulator has no {operation.name} ({operation.method} {operation.path})")
            return await handler(Call(self._world, record, request, parameters))
        except Refused as error:
            return daemon_error(error, request.method, path, self._world.clock.now())
        except OSError as error:
            refused = Refused(400, error.strerror or str(error))
            return daemon_error(refused, request.method, path, self._world.clock.now())

    async def _op_executeCommand(self, call: Call) -> web.StreamResponse:
        fields = {"command": STRING, "cwd": STRING, "timeout": INTEGER, "envs": OBJECT}
        asked = await read_object(call.request, fields, "command")
        if not asked["command"].strip():
            raise Refused(400, "empty command")
        env = {**call.env, **string_map(asked, "envs")}
        cwd = _folder(call, asked.get("cwd"))
        output, code = await commands.execute(call.machine, asked["command"], env, cwd, asked.get("timeout") or EXEC_S)
        return web.json_response({"result": output, "exitCode": code})

    async def _op_codeRun(self, call: Call) -> web.StreamResponse:
        fields = {"code": STRING, "language": STRING, "argv": ARRAY, "envs": OBJECT, "timeout": INTEGER}
        asked = await read_object(call.request, fields, "code")
        if asked.get("language", "python") != "python":
            raise Refused(501, f"The emulator has no codeRun in {asked['language']}")
        env = {**call.env, **string_map(asked, "envs")}
        arguments = [str(item) for item in asked.get("argv", ())]
        timeout_s = asked.get("timeout") or EXEC_S
        output, code = await commands.run_code(call.machine, asked["code"], arguments, env, call.box.workdir, timeout_s)
        return web.json_response({"result": output, "exitCode": code})

    async def _op_createSession(self, call: Call) -> web.StreamResponse:
        asked = await read_object(call.request, {"sessionId": STRING}, "sessionId")
        if asked["sessionId"] in ("", ENTRYPOINT):
            raise Refused(400, f"invalid session id: {asked['sessionId']!r}")
        await call.sessions.create(asked["sessionId"], call.env, call.box.workdir)
        return web.Response(status=201)

    async def _op_listSessions(self, call: Call) -> web.StreamResponse:
        known = [session for name, session in call.sessions.known.items() if name != ENTRYPOINT]
        return web.json_response([_session(session) for session in known])

    async def _op_getSession(self, call: Call) -> web.StreamResponse:
        return web.json_response(_session(call.sessions.find(call.parameters["sessionId"])))

    async def _op_getEntrypointSession(self, call: Call) -> web.StreamResponse:
        return web.json_response(_session(call.sessions.find(ENTRYPOINT)))

    async def _op_deleteSession(self, call: Call) -> web.StreamResponse:
        await call.sessions.delete(call.parameters["sessionId"])
        return web.Response(status=204)

    async def _op_sessionExecuteCommand(self, call: Call) -> web.StreamResponse:
        fields = {"command": STRING, "runAsync": BOOLEAN, "async": BOOLEAN, "suppressInputEcho": BOOLEAN}
        asked = await read_object(call.request, fields, "command")
        session = call.sessions.find(call.parameters["sessionId"])
        if not asked["command"].strip():
            raise Refused(400, "command cannot be empty")
        if asked.get("runAsync") or asked.get("async"):
            command = await session.run(asked["command"])
            return web.json_response({"cmdId": command.id}, status=202)
        command = await session.run(asked["command"], wait=True)
        return web.json_response({"cmdId": command.id, "exitCode": command.exit_code, **_logs(command)})

    async def _op_getSessionCommand(self, call: Call) -> web.StreamResponse:
        return web.json_response(_command(_find_command(call)))

    async def _op_getSessionCommandLogs(self, call: Call) -> web.StreamResponse:
        return await _send_logs(call, _find_command(call))

    async def _op_getEntrypointLogs(self, call: Call) -> web.StreamResponse:
        (command,) = call.sessions.find(ENTRYPOINT).commands.values()
        return await _send_logs(call, command)

    async def _op_uploadFiles(self, call: Call) -> web.StreamResponse:
        return await call.files.upload(call.request)

    async def _op_downloadFiles(self, call: Call) -> web.StreamResponse:
        asked = await read_object(call.request, {"paths": ARRAY}, "paths")
        if not asked["paths"]:
            raise Refused(400, "request body must be {paths: [...]} and non-empty")
        return await call.files.download(call.request, asked["paths"], self._world.clock.now())

    async def _op_createFolder(self, call: Call) -> web.StreamResponse:
        call.files.create_folder(call.query("path"), call.query("mode"))
        return web.Response(status=201)

    async def _op_deleteFile(self, call: Call) -> web.StreamResponse:
        await asyncio.to_thread(call.files.delete, call.query("path"), call.query("recursive") == "true")
        return web.Response(status=204)

    async def _op_moveFile(self, call: Call) -> web.StreamResponse:
        await asyncio.to_thread(call.files.move, call.query("source"), call.query("destination"))
        return web.Response(status=200)

    async def _op_listFiles(self, call: Call) -> web.StreamResponse:
        if call.query("depth") not in ("", "1"):
            raise Refused(501, "The emulator has no listFiles with depth")
        return web.json_response(call.files.listing(call.query("path")))

    async def _op_getFileInfo(self, call: Call) -> web.StreamResponse:
        return web.json_response(info(call.files.existing(call.query("path"))))

    async def _op_getUserHomeDir(self, call: Call) -> web.StreamResponse:
        return web.json_response({"dir": str(call.box.home)})

    async def _op_getWorkDir(self, call: Call) -> web.StreamResponse:
        return web.json_response({"dir": str(call.box.workdir)})

    async def _op_getVersion(self, call: Call) -> web.StreamResponse:
        return web.json_response({"version": "v0.201.0"})

    async def _op_getPorts(self, call: Call) -> web.StreamResponse:
        return web.json_response({"ports": await call.machine.ports()})

    async def _op_isPortInUse(self, call: Call) -> web.StreamResponse:
        port = port_in(call.parameters["port"])
        return web.json_response({"isInUse": port in await call.machine.ports()})

    async def _op_createInterpreterContext(self, call: Call) -> web.StreamResponse:
        asked = await read_object(call.request, {"cwd": STRING, "language": STRING})
        if asked.get("language", "python") != "python":
            raise Refused(400, f"unsupported language: {asked['language']}")
        context = self._contexts(call).create(asked.get("cwd"), self._world.clock.now())
        return web.json_response(context.body())

    async def _op_listInterpreterContexts(self, call: Call) -> web.StreamResponse:
        return web.json_response({"contexts": [context.body() for context in self._contexts(call).known.values()]})

    async def _op_deleteInterpreterContext(self, call: Call) -> web.StreamResponse:
        await self._contexts(call).delete(call.parameters["id"])
        return web.json_response({"message": "Context deleted successfully"})

    async def _op_executeInterpreterCode(self, call: Call) -> web.StreamResponse:
        return await self._contexts(call).serve(call.request)

    def _contexts(self, call: Call) -> Interpreters:
        machine = call.machine
        if machine not in self._interpreters:
            made = Interpreters(machine, call.env, call.box.workdir, self._world.clock.now())
            self._interpreters[machine] = made
            machine.gone.add_done_callback(lambda _: self._interpreters.pop(machine, None))
        return self._interpreters[machine]


def _folder(call: Call, text: str | None) -> Path:
    folder = call.box.workdir / text if text else call.box.workdir
    if not folder.is_dir():
        raise Refused(400, f"chdir {text}: no such file or directory")
    return folder


def _find_command(call: Call) -> Command:
    session = call.sessions.find(call.parameters["sessionId"])
    command = session.commands.get(call.parameters["commandId"])
    if command is None:
        raise Refused(404, "command not found", code="NOT_FOUND")
    return command


def _session(session: Session) -> dict[str, Any]:
    return {"sessionId": session.id, "commands": [_command(command) for command in session.commands.values()]}


def _command(command: Command) -> dict[str, Any]:
    body: dict[str, Any] = {"id": command.id, "command": command.text}
    return body if command.exit_code is None else {**body, "exitCode": command.exit_code}


def _logs(command: Command) -> dict[str, str]:
    return {
        "output": command.output(STDOUT, STDERR),
        "stdout": command.output(STDOUT),
        "stderr": command.output(STDERR),
    }


async def _send_logs(call: Call, command: Command) -> web.StreamResponse:
    if call.request.headers.get("Upgrade", "").lower() != "websocket":
        return web.json_response(_logs(command))
    socket = web.WebSocketResponse(heartbeat=_HEARTBEAT_S, max_msg_size=0)
    await socket.prepare(call.request)
    following = asyncio.ensure_future(_follow(socket, command))
    gone = asyncio.ensure_future(socket.receive())  # clients send nothing on a log, so this is its end
    await asyncio.wait((following, gone), return_when=asyncio.FIRST_COMPLETED)
    for task in (following, gone):
        task.cancel()
    await asyncio.gather(following, gone, return_exceptions=True)
    await socket.close()
    return socket


async def _follow(socket: web.WebSocketResponse, command: Command) -> None:
    sent, last = 0, b""
    while True:
        news, over = command.news, command.ended.is_set()
        for stream, line in command.log[sent:]:
            await socket.send_bytes(line if stream == last else stream + line)
            last = stream
            sent += 1
        if over:
            return
        await news.wait()
