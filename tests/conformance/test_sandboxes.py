"""Sandboxes over the API: fields, searches and changes of state."""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import TYPE_CHECKING

import httpx
import pytest
import socketio
from daytona import ListSandboxesQuery
from daytona.common.errors import (
    DaytonaAuthenticationError,
    DaytonaBadRequestError,
    DaytonaError,
    DaytonaNotFoundError,
    DaytonaUnprocessableEntityError,
)

from .facts import Known, fact
from .service import LABEL, hang_up, start_app, state_of, until

if TYPE_CHECKING:
    from .service import Service

LANGUAGE_LABEL = "code-toolbox-language"
IN_LIST = {
    "id": str,
    "organizationId": str,
    "name": str,
    "user": str,
    "labels": dict,
    "public": bool,
    "networkBlockAll": bool,
    "target": str,
    "cpu": int,
    "gpu": int,
    "memory": int,
    "disk": int,
    "toolboxProxyUrl": str,
}
WHOLE = {**IN_LIST, "env": dict, "kvm": bool}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@fact("create ends in a started sandbox", Known.SDK)
def test_create_is_started(service: Service) -> None:
    service.shared.refresh_data()  # the SDK may apply a late `sandbox.created` event after it has seen "started"
    assert state_of(service.shared) == "started"


@fact("a sandbox has fifteen fields that the SDK cannot do without, strictly typed", Known.SDK)
def test_fields_of_a_sandbox(service: Service) -> None:
    body = service.api.get(f"/sandbox/{service.shared.id}").json()
    assert {name: type(body[name]) for name in WHOLE} == WHOLE


@fact("in a list it has thirteen of them", Known.SDK)
def test_fields_in_a_list(service: Service) -> None:
    (item, *_) = service.api.get("/sandbox", params={"id": service.shared.id}).json()["items"]
    assert {name: type(item[name]) for name in IN_LIST} == IN_LIST


@fact("a page has items and nextCursor, which may be null but is there", Known.SDK)
def test_fields_of_a_page(service: Service) -> None:
    page = service.api.get("/sandbox", params={"limit": 1}).json()
    assert isinstance(page["items"], list)
    assert "nextCursor" in page


@fact("the state and the desired state are spelled as strings", Known.SDK)
def test_state_strings(service: Service) -> None:
    body = service.api.get(f"/sandbox/{service.shared.id}").json()
    assert (body["state"], body["desiredState"]) == ("started", "started")


@fact("labels, environment and name are kept as they were given; the language label is added", Known.SDK)
def test_create_keeps_what_it_was_given(service: Service) -> None:
    name = f"conformance-{uuid.uuid4().hex[:8]}"
    with service.sandbox(name=name, labels={"a": "1"}, env_vars={"GREETING": "hello"}) as made:
        body = service.api.get(f"/sandbox/{made.id}").json()
        assert body["labels"] == {"a": "1", LABEL: service.run, LANGUAGE_LABEL: "python"}
        assert body["name"] == name
        assert body["env"]["GREETING"] == "hello"
        assert made.process.exec("echo $GREETING").result == "hello\n"
        assert service.sdk.get(name).id == made.id


@fact("without a name the id stands in", Known.OLD_SERVER)
def test_name_defaults_to_id(service: Service) -> None:
    assert service.api.get(f"/sandbox/{service.shared.name}").json()["id"] == service.shared.id


@fact("a name is taken once in an organisation: 409", Known.INFERRED)
def test_name_is_taken(service: Service) -> None:
    with service.sandbox(name=f"conformance-{uuid.uuid4().hex[:8]}") as made:
        answer = service.api.post("/sandbox", json={"name": made.name, "env": {}, "labels": {}, "volumes": []})
        assert answer.status_code == 409


@fact("ids that nobody has are not found by get, start, stop and delete", Known.OLD_SERVER)
def test_unknown_ids(service: Service) -> None:
    answers = [
        service.api.get(f"/sandbox/{UNKNOWN}"),
        service.api.post(f"/sandbox/{UNKNOWN}/start"),
        service.api.post(f"/sandbox/{UNKNOWN}/stop"),
        service.api.delete(f"/sandbox/{UNKNOWN}"),
    ]
    assert [answer.status_code for answer in answers] == [404] * 4
    with pytest.raises(DaytonaNotFoundError):
        service.sdk.get(UNKNOWN)


@fact("an error of the API has path, timestamp, statusCode, error and message", Known.OLD_SERVER)
def test_fields_of_an_error(service: Service) -> None:
    body = service.api.get(f"/sandbox/{UNKNOWN}").json()
    assert {"path", "timestamp", "statusCode", "error", "message"} <= body.keys()
    assert (body["statusCode"], body["error"]) == (404, "Not Found")


@fact("a path that nobody serves is not found", Known.OLD_SERVER)
def test_unknown_path(service: Service) -> None:
    assert service.api.get("/no-such-thing").status_code == 404


@fact("a wrong key, or none, is refused with 401", Known.SDK)
def test_wrong_key(service: Service) -> None:
    for headers in ({"Authorization": "Bearer dtn_wrong"}, {}):
        assert service.plain.get(f"{service.api_url}/sandbox", headers=headers).status_code == 401
    from daytona import Daytona, DaytonaConfig

    wrong = Daytona(DaytonaConfig(api_key="dtn_wrong", api_url=service.api_url))
    try:
        with pytest.raises(DaytonaAuthenticationError):
            wrong.get(UNKNOWN)
    finally:
        hang_up(wrong)


@fact("a body that is no JSON is refused with 400", Known.OLD_SERVER)
def test_malformed_json(service: Service) -> None:
    answer = service.api.post("/sandbox", content=b'{"name": ', headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["statusCode"] == 400


@pytest.mark.parametrize("wrong", [{"cpu": "1"}, {"public": "yes"}, {"labels": []}, {"name": 5}], ids=str)
@fact("a field of another type is refused with 400", Known.OLD_SERVER)
def test_wrong_types(service: Service, wrong: dict[str, object]) -> None:
    assert service.api.post("/sandbox", json={**wrong, "autoDeleteInterval": 0}).status_code == 400


@fact("a snapshot that is not there is refused with 400", Known.INFERRED)
def test_unknown_snapshot(service: Service) -> None:
    with pytest.raises(DaytonaBadRequestError):
        service.sdk.create(service.params(snapshot="no-such-snapshot"))


@fact("resources cannot be given with a snapshot", Known.OLD_SERVER)
def test_resources_with_snapshot(service: Service) -> None:
    assert service.api.post("/sandbox", json={"cpu": 2, "autoDeleteInterval": 0}).status_code == 400


@fact("a list is filtered by labels on the server: those that have all of them", Known.OLD_SERVER)
def test_list_by_labels(service: Service) -> None:
    mark = uuid.uuid4().hex[:8]
    with (
        service.sandbox(labels={"mark": mark, "n": "1"}) as one,
        service.sandbox(labels={"mark": mark, "n": "2"}) as two,
    ):

        def found(**labels: str) -> set[str]:
            return {item.id for item in service.sdk.list(ListSandboxesQuery(labels=labels))}

        assert found(mark=mark) == {one.id, two.id}
        assert found(mark=mark, n="1") == {one.id}
        assert found(mark=mark, n="3") == set()


@fact("pages follow one another by cursor, each sandbox once", Known.SDK)
def test_list_pages(service: Service) -> None:
    mark = uuid.uuid4().hex[:8]
    with contextlib.ExitStack() as stack:
        made = {stack.enter_context(service.sandbox(labels={"mark": mark})).id for _ in range(3)}
        ids = [item["id"] for item in service.pages(labels=json.dumps({"mark": mark}), limit="1")]
        assert sorted(ids) == sorted(made)
        listed = service.sdk.list(ListSandboxesQuery(labels={"mark": mark}, limit=2))
        assert {item.id for item in listed} == made


@fact("a label filter that is no JSON is refused with 400", Known.OLD_SERVER)
def test_list_by_malformed_labels(service: Service) -> None:
    assert service.api.get("/sandbox", params={"labels": "{nonsense"}).status_code == 400


@fact("auto-stop is 15 min and auto-delete off where nothing is said", Known.DOCS)
def test_default_intervals(service: Service) -> None:
    with service.sandbox(auto_stop_interval=None, auto_delete_interval=None) as made:
        body = service.api.get(f"/sandbox/{made.id}").json()
        found = [body["autoStopInterval"], body["autoDeleteInterval"]]
        assert (found, [type(number) for number in found]) == ([15, -1], [int, int])


@fact("intervals are set by their numbers in the path", Known.SDK)
def test_set_intervals(service: Service) -> None:
    with service.sandbox() as made:
        made.set_autostop_interval(7)
        made.set_auto_delete_interval(9)
        made.set_auto_archive_interval(11)
        body = service.api.get(f"/sandbox/{made.id}").json()
        assert [body[f"auto{name}Interval"] for name in ("Stop", "Delete", "Archive")] == [7, 9, 11]


@fact("an interval that is no number is refused with 400", Known.OLD_SERVER)
def test_wrong_interval(service: Service) -> None:
    assert service.api.post(f"/sandbox/{service.shared.id}/autostop/soon").status_code == 400


@fact("a time to live sets when the sandbox is destroyed", Known.SDK)
def test_time_to_live(service: Service) -> None:
    with service.sandbox(ttl_minutes=60) as made:
        assert service.api.get(f"/sandbox/{made.id}").json()["autoDestroyAt"]


@fact("labels are replaced as a whole", Known.SDK)
def test_set_labels(service: Service) -> None:
    with service.sandbox() as made:
        labels = {LABEL: service.run, LANGUAGE_LABEL: "python", "b": "2"}
        assert made.set_labels(labels) == labels
        assert service.api.get(f"/sandbox/{made.id}").json()["labels"] == labels


@fact("last-activity answers 201 with nothing", Known.SDK)
def test_refresh_activity(service: Service) -> None:
    answer = service.api.post(f"/sandbox/{service.shared.id}/last-activity")
    assert (answer.status_code, answer.content) == (201, b"")
    service.shared.refresh_activity()


@fact("the toolbox's address can be asked for", Known.SDK)
def test_toolbox_proxy_url(service: Service) -> None:
    url = service.api.get(f"/sandbox/{service.shared.id}/toolbox-proxy-url").json()["url"]
    assert url == service.api.get(f"/sandbox/{service.shared.id}").json()["toolboxProxyUrl"]


@fact("starting what is started changes nothing", Known.OLD_SERVER)
def test_start_when_started(service: Service) -> None:
    answer = service.api.post(f"/sandbox/{service.shared.id}/start")
    assert (answer.status_code, answer.json()["state"]) == (200, "started")


@pytest.mark.parametrize("act", ["archive", "recover"])
@fact("archive needs a stopped sandbox and recover a broken one: else 400", Known.OLD_SERVER)
def test_not_in_this_state(service: Service, act: str) -> None:
    assert service.api.post(f"/sandbox/{service.shared.id}/{act}").status_code == 400


@fact("a plain container cannot be paused: 422", Known.OLD_SERVER)
def test_pause_of_a_container(service: Service) -> None:
    with pytest.raises(DaytonaUnprocessableEntityError):
        service.shared.pause()


@fact("a stop keeps files and ends processes; the start after it makes a new preview token", Known.OLD_SERVER)
def test_stop_and_start(service: Service) -> None:
    with service.sandbox() as made:
        port = start_app(made)
        made.fs.upload_file(b"kept", "kept.txt")
        token = made.get_preview_link(port).token
        made.stop()
        # A response in flight during the event may have reset the SDK's copy.
        made.refresh_data()
        assert state_of(made) == "stopped"
        assert service.api.post(f"/sandbox/{made.id}/stop").status_code == 400
        made.start()
        made.refresh_data()
        assert state_of(made) == "started"
        assert made.fs.download_file("kept.txt") == b"kept"
        link = made.get_preview_link(port)
        assert link.token != token
        assert service.plain.get(link.url, headers={"X-Daytona-Preview-Token": link.token}).status_code == 502
        assert service.toolbox("GET", "/process/session", made).json() == []


@fact("a change during a change is refused, as 409 or 400, with the same words", Known.REPORTED)
def test_change_during_a_change(service: Service) -> None:
    with service.sandbox() as made:
        # Its entrypoint has some seconds to end, so this stop takes a while on any service.
        answers = [service.api.post(f"/sandbox/{made.id}/stop", params={"force": "false"}) for _ in range(2)]
        again = answers[1]
        if again.status_code == 400 and "progress" not in again.text:
            pytest.skip("the sandbox had stopped before the second request came")
        assert again.status_code in (400, 409)
        assert "state change in progress" in again.json()["message"]
        made.wait_for_sandbox_stop()


@fact("ephemeral means auto-delete 0, and a stop destroys", Known.DOCS)
def test_ephemeral(service: Service) -> None:
    with service.sandbox(ephemeral=True, auto_delete_interval=None) as made:
        assert service.api.get(f"/sandbox/{made.id}").json()["autoDeleteInterval"] == 0
        made.stop()
        until(lambda: service.api.get(f"/sandbox/{made.id}").status_code == 404, "the end of an ephemeral sandbox")


@fact("a deleted sandbox is not found any more", Known.OLD_SERVER)
def test_delete(service: Service) -> None:
    made = service.sdk.create(service.params())
    made.delete(wait=True)
    assert service.api.get(f"/sandbox/{made.id}").status_code == 404
    assert made.id not in {item["id"] for item in service.pages(labels=json.dumps({LABEL: service.run}))}
    with pytest.raises(DaytonaError):
        made.process.exec("true")


@fact("states come over Socket.IO below the API's path, websocket only, with the key as token", Known.SDK)
def test_state_events(service: Service) -> None:
    url = httpx.URL(service.api_url)
    events: list[tuple[str, str, str]] = []
    with socketio.SimpleClient() as client:
        origin = f"{url.scheme}://{url.netloc.decode()}"
        client.connect(
            origin,
            socketio_path=f"{url.path}/socket.io/",
            auth={"token": service.api_key},
            transports=["websocket"],
        )
        made = service.sdk.create(service.params())
        made.delete(wait=True)

        def all_seen() -> bool:
            name, data = client.receive(timeout=10)
            if name == "sandbox.state.updated" and data["sandbox"]["id"] == made.id:
                assert {"id", "state"} <= data["sandbox"].keys()
                events.append((name, data["oldState"], data["newState"]))
            return any(event[2] == "destroyed" for event in events)

        until(all_seen, "the event of the end")
    assert "started" in [new for _, _, new in events]
    assert "destroying" in [new for _, _, new in events]


@fact("a wrong token opens no event stream", Known.OLD_SERVER)
def test_events_need_the_key(service: Service) -> None:
    url = httpx.URL(service.api_url)
    with socketio.SimpleClient() as client, pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(
            f"{url.scheme}://{url.netloc.decode()}",
            socketio_path=f"{url.path}/socket.io/",
            auth={"token": "dtn_wrong"},
            transports=["websocket"],
        )
