"""The published documents name every route and event of the node, and nothing else."""

import json
from typing import Any

import engineio
import pytest
import socketio
import yaml

from models.runtime import settings as runtime_settings
from models.wire import names
from socket_tier.app import Node
from tests.socket_tier import contract
from tests.socket_tier.rest import Rest

_SENT = ("POLL_STATE", "POLL_GONE", "VOTE_UPDATE", "PARTICIPANT_", "VOTE_RE", "SESSION_", "RESULTS_")


@pytest.fixture
async def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node that is put together and not started."""
    monkeypatch.setenv("VOTEMILL_ENV", "test")
    # A Socket.IO server sets its JSON codec for the whole process: the tests' own client must not keep it.
    for packet in (socketio.packet.Packet, engineio.packet.Packet):
        monkeypatch.setattr(packet, "json", packet.json)
    return Node(runtime_settings.load())


async def test_every_route_is_documented_and_every_documented_route_exists(node: Node) -> None:
    # Given the routes of the application
    routed = {
        (route.method, route.resource.canonical)
        for route in node.app.router.routes()
        if route.resource is not None and route.method not in ("HEAD", "OPTIONS", "*")
    }
    # When they are compared with openapi.yaml
    documented = {
        (method.upper(), path)
        for path, operations in contract.OPENAPI["paths"].items()
        for method in operations
        if method != "parameters"
    }
    # Then both say the same
    assert routed == documented


async def test_every_event_is_documented_and_every_documented_event_exists(node: Node) -> None:
    # Given the events that the node handles and those that it and the workers send
    handled = set(node.server.handlers["/"]) - {"connect", "disconnect", "*"}
    sent = {value for name, value in vars(names).items() if name.isupper() and name.startswith(_SENT)}
    # When they are compared with the operations of asyncapi.yaml
    messages = contract.ASYNCAPI["components"]["messages"]
    by_action: dict[str, set[str]] = {"receive": set(), "send": set()}
    for operation in contract.ASYNCAPI["operations"].values():
        key = operation["messages"][0]["$ref"].rsplit("/", 1)[1]
        message = contract.ASYNCAPI["channels"]["namespace"]["messages"][key]["$ref"].rsplit("/", 1)[1]
        by_action[operation["action"]].add(messages[message]["name"])
    # Then both say the same, and each client event has an ack
    assert by_action == {"receive": handled, "send": sent}
    assert {f"{event} ack" for event in handled} <= {message["name"] for message in messages.values()}


@pytest.mark.parametrize("name", ["openapi.yaml", "asyncapi.yaml"])
async def test_the_node_serves_its_documents(rest: Rest, name: str) -> None:
    answer = await rest.get(f"/{name}")
    assert answer.status == 200
    assert yaml.safe_load(answer.text) == contract.read(name)


@pytest.mark.parametrize("document", [contract.OPENAPI, contract.ASYNCAPI], ids=["openapi", "asyncapi"])
def test_every_reference_in_the_documents_leads_somewhere(document: dict[str, Any]) -> None:
    found = []

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                found.append(part["$ref"])
            for value in part.values():
                walk(value)
        elif isinstance(part, list):
            for item in part:
                walk(item)

    walk(document)
    assert found
    for reference in found:
        file, _, pointer = reference.partition("#/")
        target: Any = contract.OPENAPI if file == "openapi.yaml" else document
        for key in pointer.split("/"):
            target = target[key]
        assert target, reference


@pytest.mark.parametrize("path", ["/", "/host/ABC234", "/j/ABC234", "/screen/ABC234"])
async def test_the_pages_are_served(rest: Rest, path: str) -> None:
    assert (await rest.get(path)).status == 200


async def test_the_socket_io_client_of_the_page_is_served(rest: Rest) -> None:
    assert (await rest.get("/assets/vendor/socket.io.esm.min.js")).status == 200


def test_the_judge_finds_what_the_documents_dont_say() -> None:
    """The checks behind all other tests do fail."""
    refusal = {"success": False, "error": "No", "code": "no", "correlationId": "0" * 32}
    contract.check_ack("join", [refusal])
    for broken in ([], [refusal, refusal], [{**refusal, "stack": "x"}], [{**refusal, "error": ["x"]}], [None]):
        with pytest.raises(contract.ContractBroken):
            contract.check_ack("join", broken)
    with pytest.raises(contract.ContractBroken):
        contract.check_event("surprise", [{}])
    with pytest.raises(contract.ContractBroken):
        contract.check_answer("GET", "/api/health/live", 418, "application/json", json.loads("{}"))
