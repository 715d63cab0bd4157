"""Previews: addresses, credentials, forwarded requests, and WebSockets."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from daytona.common.errors import DaytonaBadRequestError
from websockets.exceptions import ConnectionClosedError, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from .facts import Known, fact
from .service import OTHER_PORT, TOKEN_HEADER, UNAUTHORIZED, start_app, until

if TYPE_CHECKING:
    from .service import Service

QUERY = "DAYTONA_SANDBOX_AUTH_KEY"


def names(answer: httpx.Response) -> dict[str, str]:
    """Return the headers that the app received, with names in lower case."""
    return {name.lower(): value for name, value in answer.json()["headers"]}


def dial(service: Service, path: str = "/", **options: Any) -> ClientConnection:
    link = service.server.get_preview_link(service.port)
    headers = {TOKEN_HEADER: link.token, **options.pop("headers", {})}
    url = link.url.replace("http", "ws", 1) + path
    made: ClientConnection = connect(url, additional_headers=headers, proxy=None, max_size=None, **options)
    return made


@fact(
    "a preview's host begins with port, dash and sandbox id; its token has 32 lower-case characters", Known.OLD_SERVER
)
def test_link(service: Service) -> None:
    link = service.server.get_preview_link(service.port)
    assert httpx.URL(link.url).host.startswith(f"{service.port}-{service.server.id}.")
    assert re.fullmatch(r"[a-z0-9_-]{32}", link.token)


@fact("the answer to preview-url has sandboxId, url and token", Known.SDK)
def test_fields_of_a_link(service: Service) -> None:
    body = service.api.get(f"/sandbox/{service.server.id}/ports/{service.port}/preview-url").json()
    assert {name: type(body[name]) for name in ("sandboxId", "url", "token")} == {
        "sandboxId": str,
        "url": str,
        "token": str,
    }


@pytest.mark.parametrize("port", ["0", "65536", "-1"])
@fact("a port out of range is refused with 400", Known.OLD_SERVER)
def test_port_out_of_range(service: Service, port: str) -> None:
    assert service.api.get(f"/sandbox/{service.server.id}/ports/{port}/preview-url").status_code == 400


@fact("the token opens a preview as a header, which the app does not get", Known.OLD_SERVER)
def test_token_header(service: Service) -> None:
    answer = service.preview("/")
    assert answer.status_code == 200
    assert TOKEN_HEADER.lower() not in names(answer)


@fact("the token opens a preview as a query parameter, which the app does not get", Known.OLD_SERVER)
def test_token_query(service: Service) -> None:
    link = service.server.get_preview_link(service.port)
    answer = service.plain.get(f"{link.url}/a?x=1&{QUERY}={link.token}&y=2")
    assert answer.status_code == 200
    assert answer.json()["target"] == "/a?x=1&y=2"


@fact("an API key opens a preview as bearer, which the app does not get", Known.OLD_SERVER)
def test_bearer(service: Service) -> None:
    link = service.server.get_preview_link(service.port)
    answer = service.plain.get(link.url, headers={"Authorization": f"Bearer {service.api_key}"})
    assert answer.status_code == 200
    assert "authorization" not in names(answer)


@fact("a caller without a token is refused: 307 to a login page, 401 on newer servers", Known.OLD_SERVER)
def test_no_token(service: Service) -> None:
    link = service.server.get_preview_link(service.port)
    assert service.plain.get(link.url).status_code in UNAUTHORIZED


@fact("a wrong token is refused in the same way", Known.OLD_SERVER)
def test_wrong_token(service: Service) -> None:
    link = service.server.get_preview_link(service.port)
    assert service.plain.get(link.url, headers={TOKEN_HEADER: "x" * 32}).status_code in UNAUTHORIZED
    assert service.plain.get(link.url, params={QUERY: "x" * 32}).status_code in UNAUTHORIZED


@fact("one token opens every port of its sandbox", Known.OLD_SERVER)
def test_one_token_for_all_ports(service: Service) -> None:
    token = service.server.get_preview_link(service.port).token
    other = service.server.get_preview_link(OTHER_PORT)
    assert other.token == token
    assert service.plain.get(other.url, headers={TOKEN_HEADER: token}).status_code == 502


@fact("it also opens port 2280, which is the toolbox", Known.OLD_SERVER)
def test_token_opens_the_toolbox(service: Service) -> None:
    link = service.server.get_preview_link(2280)
    answer = service.plain.get(f"{link.url}/work-dir", headers={TOKEN_HEADER: link.token})
    assert answer.json() == {"dir": service.server.get_work_dir()}


@fact("another sandbox's token opens nothing", Known.OLD_SERVER)
def test_foreign_token(service: Service) -> None:
    link = service.server.get_preview_link(service.port)
    foreign = service.shared.get_preview_link(service.port).token
    assert service.plain.get(link.url, headers={TOKEN_HEADER: foreign}).status_code in UNAUTHORIZED


@fact("the answer to signed-preview-url has sandboxId, port, token and url", Known.SDK)
def test_fields_of_a_signed_link(service: Service) -> None:
    path = f"/sandbox/{service.server.id}/ports/{service.port}/signed-preview-url"
    body = service.api.get(path, params={"expiresInSeconds": 60}).json()
    assert body["sandboxId"] == service.server.id
    assert body["port"] == service.port
    assert body["token"] in body["url"]


@fact("a signed URL opens its port without anything else, and sets a cookie that then suffices", Known.OLD_SERVER)
def test_signed_url(service: Service) -> None:
    signed = service.server.create_signed_preview_url(service.port, 60)
    with httpx.Client(trust_env=False) as browser:
        assert browser.get(signed.url).status_code == 200
        assert f"daytona-sandbox-auth-{signed.token}" in browser.cookies
        service.server.expire_signed_preview_url(service.port, signed.token)
        # The cookie is valid for up to an hour after the token was revoked.
        assert browser.get(signed.url, follow_redirects=False).status_code in (200, *UNAUTHORIZED)


@fact("a signed URL's token is revoked by expire", Known.OLD_SERVER)
def test_expire_signed_url(service: Service) -> None:
    signed = service.server.create_signed_preview_url(service.port, 60)
    service.server.expire_signed_preview_url(service.port, signed.token)
    assert service.plain.get(signed.url).status_code in UNAUTHORIZED


@fact("a signed token opens no other port", Known.OLD_SERVER)
def test_signed_url_of_another_port(service: Service) -> None:
    signed = service.server.create_signed_preview_url(service.port, 60)
    url = signed.url.replace(f"{service.port}-", f"{OTHER_PORT}-", 1)
    assert service.plain.get(url).status_code in UNAUTHORIZED


@pytest.mark.parametrize("seconds", ["0", "86401", "soon"])
@fact("a signed URL lives from 1 s to 24 h, else 400", Known.OLD_SERVER)
def test_signed_url_lifetime(service: Service, seconds: str) -> None:
    path = f"/sandbox/{service.server.id}/ports/{service.port}/signed-preview-url"
    assert service.api.get(path, params={"expiresInSeconds": seconds}).status_code == 400


@fact("the SDK passes that on as a bad request", Known.SDK)
def test_signed_url_by_sdk(service: Service) -> None:
    with pytest.raises(DaytonaBadRequestError):
        service.server.create_signed_preview_url(service.port, 100_000)


@fact("where nothing listens the answer is 502", Known.OLD_SERVER)
def test_nothing_listens(service: Service) -> None:
    link = service.server.get_preview_link(OTHER_PORT)
    assert service.plain.get(link.url, headers={TOKEN_HEADER: link.token}).status_code == 502


@fact("a host whose first label is no port and id is not found", Known.OLD_SERVER)
def test_host_that_is_none(service: Service) -> None:
    url = httpx.URL(service.server.get_preview_link(service.port).url)
    host = f"nonsense.{url.host.partition('.')[2]}"
    assert service.plain.get(url, headers={"Host": f"{host}:{url.port}"}).status_code == 404


@fact("the app sees localhost and its port as host; the real one is in X-Forwarded-Host", Known.OLD_SERVER)
def test_host_header(service: Service) -> None:
    seen = names(service.preview("/"))
    assert seen["host"] == f"localhost:{service.port}"
    assert seen["x-forwarded-host"].startswith(f"{service.port}-{service.server.id}.")
    assert seen["x-forwarded-for"]


@fact("path and query arrive as they were sent, percent signs and all", Known.OLD_SERVER)
def test_path_and_query(service: Service) -> None:
    assert service.preview("/a%2Fb/c%20d?x=1%2F2&y").json()["target"] == "/a%2Fb/c%20d?x=1%2F2&y"


@fact("methods, bodies and the app's own headers pass", Known.OLD_SERVER)
def test_method_and_body(service: Service) -> None:
    answer = service.preview("/post", method="POST", content=b"x" * 100_000, headers={"X-Own": "1"})
    assert (answer.json()["method"], answer.json()["bytes"]) == ("POST", 100_000)
    assert names(answer)["x-own"] == "1"
    assert answer.headers["X-App"] == "yes"


@fact("a body of unknown length passes", Known.OLD_SERVER)
def test_chunked_body(service: Service) -> None:
    pieces = (b"y" * 1000 for _ in range(300))
    assert service.preview("/post", method="POST", content=pieces).json()["bytes"] == 300_000


@fact("a large body passes in both directions, without a limit", Known.OLD_SERVER)
def test_large_bodies(service: Service) -> None:
    assert service.preview("/post", method="PUT", content=b"z" * (3 << 20)).json()["bytes"] == 3 << 20
    assert len(service.preview("/big/5000000").content) == 5_000_000


@pytest.mark.parametrize("status", [204, 404, 500, 503])
@fact("the app's own status passes", Known.OLD_SERVER)
def test_status(service: Service, status: int) -> None:
    answer = service.preview(f"/status/{status}")
    assert answer.status_code == status
    assert answer.headers["X-App"] == "yes"


@fact("HEAD has the headers of GET and no body", Known.OLD_SERVER)
def test_head(service: Service) -> None:
    answer = service.preview("/big/1000", method="HEAD")
    assert (answer.status_code, answer.content, answer.headers["Content-Length"]) == (200, b"", "1000")


@fact("cookies pass both ways", Known.OLD_SERVER)
def test_cookies(service: Service) -> None:
    answer = service.preview("/cookie", headers={"Cookie": "a=1; b=2"})
    assert names(answer)["cookie"] == "a=1; b=2"
    assert "own=1" in answer.headers["Set-Cookie"]


@fact("any origin may read answers, with credentials, unless the request says otherwise", Known.OLD_SERVER)
def test_cors(service: Service) -> None:
    origin = {"Origin": "https://example.com"}
    answer = service.preview("/", headers=origin)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://example.com"
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    quiet = service.preview("/", headers={**origin, "X-Daytona-Disable-CORS": "true"})
    assert "Access-Control-Allow-Origin" not in quiet.headers


@fact("browsers get a warning page instead, which a header skips; others never do", Known.OLD_SERVER)
def test_warning_page(service: Service) -> None:
    browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36"}
    skipped = service.preview("/", headers={**browser, "X-Daytona-Skip-Preview-Warning": "true"})
    assert skipped.json()["method"] == "GET"
    shown = service.preview("/", headers=browser)
    assert shown.status_code == 200  # from tier 3 on it is the app's own
    assert "X-App" not in shown.headers or shown.json()["method"] == "GET"


@fact("a WebSocket passes: text, binary, and what the app says at once", Known.OLD_SERVER)
def test_websocket(service: Service) -> None:
    with dial(service) as socket:
        hello = json.loads(socket.recv(timeout=10))
        assert hello["host"] == f"localhost:{service.port}"
        assert TOKEN_HEADER.lower() not in hello
        for message in ("text", b"\0\xffbinary"):
            socket.send(message)
            assert socket.recv(timeout=10) == message


@fact("the path and query of an upgrade arrive, and its own headers", Known.OLD_SERVER)
def test_websocket_request(service: Service) -> None:
    with dial(service, "/ws?x=1", headers={"X-Relay": "secret"}, origin="https://example.com") as socket:
        hello = json.loads(socket.recv(timeout=10))
        assert (hello["x-relay"], hello["origin"]) == ("secret", "https://example.com")


@fact("a subprotocol is negotiated end to end", Known.OLD_SERVER)
def test_websocket_subprotocol(service: Service) -> None:
    with dial(service, subprotocols=["one", "two"]) as socket:
        assert socket.subprotocol == "one"


@fact("a WebSocket message has no size limit on the way", Known.OLD_SERVER)
def test_websocket_large_message(service: Service) -> None:
    message = bytes(range(256)) * (32 << 10)  # 8 MiB
    with dial(service, compression=None) as socket:
        socket.recv(timeout=10)
        socket.send(message)
        assert socket.recv(timeout=60) == message


@fact("many messages keep their order", Known.OLD_SERVER)
def test_websocket_order(service: Service) -> None:
    with dial(service) as socket:
        socket.recv(timeout=10)
        for number in range(500):
            socket.send(str(number))
        assert [socket.recv(timeout=10) for _ in range(500)] == [str(number) for number in range(500)]


@fact("pings travel end to end and are answered by the app", Known.OLD_SERVER)
def test_websocket_ping(service: Service) -> None:
    with dial(service, ping_interval=None) as socket:
        socket.recv(timeout=10)
        assert socket.ping(b"anyone?").wait(10)


@fact("a close of the app arrives with its code", Known.OLD_SERVER)
def test_websocket_close_by_the_app(service: Service) -> None:
    with dial(service) as socket:
        socket.recv(timeout=10)
        socket.send("close me")
        with pytest.raises(ConnectionClosedError):
            socket.recv(timeout=10)
        assert (socket.close_code, socket.close_reason) == (4321, "asked for")


@fact("a connection that the app drops is dropped", Known.OLD_SERVER)
def test_websocket_dropped_by_the_app(service: Service) -> None:
    with dial(service) as socket:
        socket.recv(timeout=10)
        socket.send("drop me")
        until(lambda: socket.close_code is not None, "the end of the connection")
        assert socket.close_code == 1006


@fact("an upgrade without a token is refused like any request", Known.REPORTED)
def test_websocket_needs_the_token(service: Service) -> None:
    with pytest.raises((InvalidHandshake, InvalidURI)), dial(service, headers={TOKEN_HEADER: "x" * 32}):
        pass


@fact("an upgrade to a port where nothing listens is answered 502", Known.OLD_SERVER)
def test_websocket_to_nothing(service: Service) -> None:
    link = service.server.get_preview_link(OTHER_PORT)
    url = link.url.replace("http", "ws", 1)
    with (
        pytest.raises(InvalidHandshake, match="502"),
        connect(url, additional_headers={TOKEN_HEADER: link.token}, proxy=None),
    ):
        pass


@fact("a signed URL opens a WebSocket", Known.OLD_SERVER)
def test_websocket_by_signed_url(service: Service) -> None:
    signed = service.server.create_signed_preview_url(service.port, 60)
    with connect(signed.url.replace("http", "ws", 1), proxy=None) as socket:
        socket.send("hello")
        assert [socket.recv(timeout=10) for _ in range(2)][1] == "hello"


@fact("a public sandbox asks for nothing and hands credentials on to the app", Known.OLD_SERVER)
def test_public(service: Service) -> None:
    with service.sandbox(public=True) as made:
        link = made.get_preview_link(start_app(made))
        answer = service.plain.get(link.url, headers={"Authorization": "Bearer not-a-key"})
        assert answer.status_code == 200
        assert names(answer)["authorization"] == "Bearer not-a-key"


@fact("port 2280 is private even then", Known.OLD_SERVER)
def test_public_toolbox(service: Service) -> None:
    with service.sandbox(public=True) as made:
        link = made.get_preview_link(2280)
        assert service.plain.get(f"{link.url}/work-dir").status_code in UNAUTHORIZED


@fact("a stopped sandbox's preview is refused, not answered by the app", Known.INFERRED)
def test_stopped(service: Service) -> None:
    with service.sandbox() as made:
        link = made.get_preview_link(start_app(made))
        made.stop()
        answer = service.plain.get(link.url, headers={TOKEN_HEADER: link.token})
        assert 300 <= answer.status_code < 600
        assert "X-App" not in answer.headers


@fact("a stop cuts live connections", Known.OLD_SERVER)
def test_stop_cuts(service: Service) -> None:
    with service.sandbox() as made:
        link = made.get_preview_link(start_app(made))
        headers = {TOKEN_HEADER: link.token}
        with connect(link.url.replace("http", "ws", 1), additional_headers=headers, proxy=None) as socket:
            socket.recv(timeout=10)
            made.stop()
            until(lambda: socket.close_code is not None, "the end of the connection")
