"""What hypothesis makes up for the running service: nearly right events, packets out of place, bent requests."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.socket_tier.rest import Poll

EVENTS = ("join", "join-room", "submit-vote", "change-poll-state", "no-such-event")
_FIELDS = (
    "roomCode", "nickname", "participantToken", "participantId", "optionIndex", "commandId", "newState", "hostToken",
    "viewer", "question", "options", "__proto__", "constructor", "",
)  # fmt: skip
_TEXT = st.text(max_size=40)
_NUMBERS = st.integers() | st.sampled_from([0, 1, -1, 2**31, 2**53, 2**63, 2**64, 10**400]) | st.floats()
_LEAF = st.none() | st.booleans() | _NUMBERS | _TEXT
_JSON = st.recursive(
    _LEAF,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_FIELDS) | _TEXT, inner, max_size=5),
    max_leaves=10,
)


class Known(NamedTuple):
    """What is right for the service that is fuzzed, so that inputs get past the first check."""

    poll: Poll
    other: Poll
    participant_id: str
    participant_token: str


class Sent(NamedTuple):
    """One event: its name, and its arguments as JSON texts."""

    event: str
    arguments: tuple[str, ...]


def events(known: Known) -> st.SearchStrategy[Sent]:
    """Mostly objects with the right fields, of which some hold what they shouldn't."""
    tokens = st.sampled_from([known.poll.host_token, known.other.host_token, known.participant_token, ""])
    codes = st.sampled_from([known.poll.code, known.other.code, known.poll.code.lower(), "ZZZZZZ", ""])
    right: dict[str, st.SearchStrategy[Any]] = {
        "roomCode": codes,
        "nickname": st.text(alphabet="ab \u0301\u200d💥-'", min_size=1, max_size=8),
        "participantToken": tokens,
        "hostToken": tokens,
        "participantId": st.just(known.participant_id) | st.uuids().map(str),
        "optionIndex": st.integers(-1, 6),
        "newState": st.sampled_from(["open", "closed", "waiting", "OPEN"]),
        "commandId": st.text(max_size=70),
        "viewer": st.booleans(),
    }
    bent = {name: values | _JSON for name, values in right.items()}
    needed = {
        "join": ("roomCode",),
        "join-room": ("roomCode", "nickname"),
        "submit-vote": ("roomCode", "participantId", "optionIndex"),
        "change-poll-state": ("roomCode", "newState", "hostToken"),
        "no-such-event": (),
    }
    optional = {"join": ("hostToken", "viewer"), "join-room": ("participantToken",), "submit-vote": ("commandId",)}

    def of(event: str) -> st.SearchStrategy[Sent]:
        more = {name: right[name] for name in optional.get(event, ())}
        whole = st.fixed_dictionaries({name: right[name] for name in needed[event]}, optional=more)
        nearly = st.fixed_dictionaries({}, optional={name: bent[name] for name in (*needed[event], *more, "viewer")})
        argument = (whole | nearly | codes | _JSON).map(_text) | st.text(max_size=30) | _broken(whole.map(_text))
        arguments = argument.map(lambda one: (one,)) | st.lists(argument, max_size=3).map(tuple)
        return arguments.map(lambda texts: Sent(event, texts))

    return st.sampled_from(EVENTS).flatmap(of)


def packets() -> st.SearchStrategy[str | bytes]:
    """Engine.IO and Socket.IO packets: any type in any place, with bent numbers, namespaces and JSON, and bytes."""
    kinds = st.sampled_from([*"0123456789b", "", "x", "\u0664"])
    body = st.sampled_from(['["join","ZZZZZZ"]', '["submit-vote",{}]', '["x",{"_placeholder":true,"num":0}]', "{}", ""])
    attachments = st.sampled_from(["", "", "1-", "0-", "999999999-", "-", "1-1-"])
    namespaces = st.sampled_from(["", "", "/,", "/admin,", "/?a=b,", "/" + "n" * 300 + ","])
    numbers = st.sampled_from(["", "0", "7", "99999999999999999999", "-1", "\u0667"])
    event = st.builds("".join, st.tuples(kinds, kinds, attachments, namespaces, numbers, body | _JSON.map(_text)))
    rules = st.sampled_from(
        ["40", "41", "1", "2probe", "3probe", "5", "6", '0{"sid":"x"}', "4" + "[" * 3000, "4" * 3000]
    )
    return event | rules | _broken(event) | st.text(max_size=30) | st.binary(max_size=200)


class Call(NamedTuple):
    """An HTTP request; ``broken_off``: we hang up behind it, since its length may be a lie."""

    method: str
    path: str
    headers: tuple[bytes, ...]
    body: bytes
    broken_off: bool


def calls(known: Known) -> st.SearchStrategy[Call]:
    """Requests with any path, any header value and any body, from such a client as no browser is."""
    host = known.poll.host_token.encode()
    codes = st.sampled_from([known.poll.code, known.other.code, "ZZZZZZ", "%00", "..", "%2e%2e", "%ff%fe", "ABC", "💥"])
    paths = st.sampled_from([
        "/api/polls", "/api/polls/{}", "/api/polls/{}/state", "/api/polls/{}/results.csv", "/api/config/log-level",
        "/api/polls/{}/results.json", "/docs", "/assets/0123456789abcdef/{}", "/api/config/settings",
        "/api/health", "/api/health/ready", "/", "/j/{}", "/host/{}", "/assets/{}", "/assets/vendor/{}", "/{}",
        "/socket.io/?EIO=4&transport=polling&x={}", "/socket.io/?EIO=4&transport=polling&sid={}",
        "/socket.io/?EIO=3&transport={}", "/socket.io/?EIO=4&transport=websocket&j={}", "*", "http://evil/{}",
    ])  # fmt: skip
    path = st.builds(lambda template, code: template.replace("{}", code), paths, codes)
    values = st.binary(max_size=40).map(lambda raw: raw.translate(None, b"\r\n")) | st.sampled_from(
        [b"Bearer " + host, b"Bearer \xff", b"votemill=\xff.x", b"http://localhost:3000", b"application/json", b"gzip"]
    )
    names = st.sampled_from([
        b"Authorization", b"Cookie", b"Origin", b"X-Forwarded-For", b"X-Forwarded-Proto", b"Accept", b"Expect",
        b"Content-Encoding", b"Access-Control-Request-Method", b"If-None-Match", b"Range", b"traceparent", b"Upgrade",
        b"X-Correlation-Id", b"Sec-WebSocket-Key", b"Transfer-Encoding", b"Content-Length",
    ])  # fmt: skip
    headers = st.lists(st.tuples(names, values), max_size=4)
    poll = st.fixed_dictionaries({"question": _TEXT | _JSON, "options": st.lists(_TEXT | _LEAF, max_size=6) | _JSON})
    bodies = (poll | _JSON).map(_text) | st.sampled_from(['{"newState":"open"}', '{"level":"INFO","logger":"\\u0000"}'])
    body = bodies.map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=300)
    methods = st.sampled_from(["GET", "GET", "POST", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "X"])
    return st.builds(_call, methods, path, headers, body, st.integers(0, 20).map(lambda one: one == 0))


def _call(method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes, cut: bool) -> Call:
    lines = [b"%b: %b" % header for header in headers]
    lines += [b"Content-Type: application/json"] if body[:1] in (b"{", b"[") else []
    lies = {b"Transfer-Encoding", b"Content-Length", b"Upgrade", b"Content-Encoding", b"Expect"}
    broken_off = cut or bool(lies & {name for name, _ in headers})
    lines.append(b"Content-Length: %d" % (len(body) + cut))
    return Call(method, path, tuple(lines), body, broken_off)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # writes NaN and Infinity, which are no JSON


def _broken(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Cut somewhere, or with something put in."""
    put_in = st.sampled_from(
        ["", "\x00", "\\ud800", "[[[[", "9" * 50, "1e999", "\u202e", "\x1e", '"', "}", ',"roomCode":"x"']
    )

    def bent(text: str, at: int, put: str, cut: bool) -> str:
        at %= len(text) + 1
        return text[:at] + put + ("" if cut else text[at:])

    return st.builds(bent, texts, st.integers(0, 500), put_in, st.booleans())
