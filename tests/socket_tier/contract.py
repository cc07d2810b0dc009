"""The published documents as judges: whatever the service answers or sends in a test must be what they say.

Objects are taken strictly here: a field that the documents don't have is a fault, although clients must ignore it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

SOCKET_TIER = Path(__file__).resolve().parents[2] / "socket_tier"
_BASE = "https://votemill.example/"


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((SOCKET_TIER / name).read_text())
    return document


def _strict(part: Any) -> Any:
    if isinstance(part, list):
        return [_strict(item) for item in part]
    if not isinstance(part, dict):
        return part
    copied = {key: _strict(value) for key, value in part.items()}
    if copied.get("type") == "object" and "properties" in copied:
        copied.setdefault("additionalProperties", False)
    return copied


OPENAPI = read("openapi.yaml")
ASYNCAPI = read("asyncapi.yaml")
_REGISTRY: Registry[Any] = Registry().with_resources(
    [
        (_BASE + name, Resource(contents=_strict(document), specification=DRAFT202012))
        for name, document in (("openapi.yaml", OPENAPI), ("asyncapi.yaml", ASYNCAPI))
    ]
)
_validators: dict[str, Draft202012Validator] = {}


class ContractBroken(AssertionError):
    """The service did something that its documents don't say."""


def check(document: str, pointer: str, value: Any) -> None:
    """:raises ContractBroken: with the place and the reason"""
    reference = f"{_BASE}{document}#{pointer}"
    if reference not in _validators:
        _validators[reference] = Draft202012Validator({"$ref": reference}, registry=_REGISTRY)
    fault = best_match(_validators[reference].iter_errors(value))
    if fault is not None:
        raise ContractBroken(f"{document}#{pointer}: {fault.json_path}: {fault.message}\nin {str(value)[:500]}")


def _message_key(name: str) -> str | None:
    return next((key for key, message in ASYNCAPI["components"]["messages"].items() if message["name"] == name), None)


def check_event(name: str, args: list[Any]) -> None:
    """What a browser has received."""
    key = _message_key(name)
    if key is None:
        raise ContractBroken(f"event {name!r} stands in no document")
    if len(args) != 1:
        raise ContractBroken(f"event {name!r} came with {len(args)} arguments")
    check("asyncapi.yaml", f"/components/messages/{key}/payload", args[0])
    if name == "vote-update":
        check_totals(args[0])


def check_ack(event: str, args: list[Any]) -> None:
    """An answer to a client's event: exactly one object."""
    if len(args) != 1:
        raise ContractBroken(f"the ack of {event!r} came with {len(args)} arguments")
    key = _message_key(f"{event} ack")
    pointer = f"/components/messages/{key}/payload" if key else "/components/schemas/Refusal"
    check("asyncapi.yaml", pointer, args[0])
    if isinstance(args[0].get("poll"), dict):
        check_totals(args[0]["poll"])


def check_totals(poll: dict[str, Any]) -> None:
    """Percentages belong to the votes: dense, and 100 together unless there are none."""
    votes, shares = poll["votes"], poll["percentages"]
    if len(votes) != len(shares) or sum(shares) != (100 if sum(votes) else 0):
        raise ContractBroken(f"votes {votes} with percentages {shares}")


def path_template(path: str) -> str:
    """The documented path that a request's path belongs to.

    :raises KeyError: none
    """
    if path.startswith("/assets/") and path != "/assets/vendor/socket.io.esm.min.js":
        return "/assets/{filename}"
    wanted = path.split("/")
    for template in sorted(OPENAPI["paths"], key=lambda text: text.count("{")):
        parts = template.split("/")
        if len(parts) == len(wanted) and all(
            part.startswith("{") or part == other for part, other in zip(parts, wanted, strict=True)
        ):
            return template
    raise KeyError(path)


def check_answer(method: str, path: str, status: int, content_type: str, body: Any) -> None:
    """An HTTP answer, its body decoded when it is JSON."""
    try:
        operation = OPENAPI["paths"][path_template(path)][method.lower()]
    except KeyError:
        # Not one of ours: then it must be refused, as JSON all the same.
        if status not in (204, 403, 404, 405, 429):
            raise ContractBroken(f"{method} {path} gave {status} and stands in no document") from None
        if status != 204:
            check("openapi.yaml", "/components/schemas/Error", body)
        return
    try:
        response = operation["responses"][str(status)]
    except KeyError:
        raise ContractBroken(f"{method} {path}: status {status} is not documented; {body}") from None
    if "$ref" in response:
        response = OPENAPI["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
    contents = response.get("content", {})
    if content_type not in contents and "*/*" not in contents:
        raise ContractBroken(f"{method} {path}: {status} came as {content_type}, documented as {list(contents)}")
    if content_type == "application/json":
        schema = contents[content_type]["schema"]
        if "$ref" in schema:
            check("openapi.yaml", schema["$ref"].removeprefix("#"), body)
        else:
            Draft202012Validator(_strict(schema), registry=_REGISTRY).validate(body)
        if isinstance(body, dict) and isinstance(body.get("poll"), dict):
            check_totals(body["poll"])
