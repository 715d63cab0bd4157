"""The asynchronous SDK drives the same service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from daytona import AsyncDaytona, DaytonaConfig, SessionExecuteRequest
from daytona.common.errors import DaytonaNotFoundError

from .facts import Known, fact
from .service import APP, APP_PORT, TOKEN_HEADER, state_of

if TYPE_CHECKING:
    from .service import Service


@fact("the async SDK creates, runs, stores, previews, stops, starts and deletes", Known.SDK)
async def test_whole_life(service: Service) -> None:
    async with AsyncDaytona(DaytonaConfig(api_key=service.api_key, api_url=service.api_url)) as daytona:
        made = await daytona.create(service.params())
        try:
            assert (await made.process.exec("echo $((6 * 7))")).result == "42\n"
            await made.fs.upload_file(APP.read_bytes(), "app.py")
            assert await made.fs.download_file("app.py") == APP.read_bytes()
            await made.process.create_session("app")
            port = int((await made.process.exec(f"echo {APP_PORT}")).result)
            request = SessionExecuteRequest(command=f"exec python3 app.py {port}", run_async=True)
            command = await made.process.execute_session_command("app", request)
            assert command.cmd_id
            link = await made.get_preview_link(port)
            async with httpx.AsyncClient(trust_env=False) as client:
                for _ in range(200):
                    answer = await client.get(link.url, headers={TOKEN_HEADER: link.token})
                    if answer.status_code != 502:
                        break
                assert answer.json()["method"] == "GET"
            await made.stop()
            await made.start()
            await made.refresh_data()
            assert state_of(made) == "started"
        finally:
            await made.delete(wait=True)
        with pytest.raises(DaytonaNotFoundError):
            await daytona.get(made.id)


@fact("the async SDK runs code in the interpreter, and follows logs", Known.SDK)
async def test_interpreter_and_logs(service: Service) -> None:
    async with AsyncDaytona(DaytonaConfig(api_key=service.api_key, api_url=service.api_url)) as daytona:
        made = await daytona.get(service.shared.id)
        result = await made.code_interpreter.run_code("print('from afar')")
        assert result.stdout == "from afar\n"
        await made.process.create_session("async-logs")
        request = SessionExecuteRequest(command="echo out; echo err >&2", run_async=True)
        command = await made.process.execute_session_command("async-logs", request)
        out: list[str] = []
        err: list[str] = []
        await made.process.get_session_command_logs_async("async-logs", command.cmd_id, out.append, err.append)
        assert ("".join(out), "".join(err)) == ("out\n", "err\n")
        await made.process.delete_session("async-logs")


@fact("the async SDK lists by labels, page after page", Known.SDK)
async def test_list(service: Service) -> None:
    from daytona import ListSandboxesQuery

    from .service import LABEL

    service.shared.refresh_data()  # the SDK can return from create() before it has stored the last state
    assert state_of(service.shared) == "started"
    async with AsyncDaytona(DaytonaConfig(api_key=service.api_key, api_url=service.api_url)) as daytona:
        query = ListSandboxesQuery(labels={LABEL: service.run}, limit=1)
        found = [item.id async for item in daytona.list(query)]
    assert service.shared.id in found
