"""HTTP calls whose answers are held against openapi.yaml."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.socket_tier import contract
from tests.socket_tier.browsers import assert_no_internals


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.text)
        return body


@dataclass(frozen=True)
class Poll:
    code: str
    host_token: str
    options: list[str]


class Rest:
    """A caller without cookies."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self._session = session
        self._base_url = base_url

    async def request(self, method: str, path: str, *, url: str | None = None, **options: Any) -> Answer:
        """Any call; ``url`` is a node's or else the balancer's."""
        async with self._session.request(method, (url or self._base_url) + path, **options) as response:
            text = await response.text()
            kind = response.content_type
            body = json.loads(text) if kind == "application/json" and text else text
            contract.check_answer(method, urlsplit(path).path, response.status, kind, body)
            if response.status >= 400:
                assert_no_internals(body)
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, headers, text)

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def create(
        self, question: str = "Tea or coffee?", options: int = 3, rules: dict[str, Any] | None = None, **more: Any
    ) -> Poll:
        names = [f"Option {number}" for number in range(options)]
        body = {"question": question, "options": names} | ({} if rules is None else {"rules": rules})
        answer = await self.request("POST", "/api/polls", json=body, **more)
        assert answer.status == 201, answer.text
        return Poll(answer.body["roomCode"], answer.body["hostToken"], names)

    async def change(self, poll: Poll, state: str, *, token: str | None = None, url: str | None = None) -> Answer:
        return await self.request(
            "POST",
            f"/api/polls/{poll.code}/state",
            url=url,
            json={"newState": state},
            headers={"Authorization": f"Bearer {token or poll.host_token}"},
        )

    async def open_poll(self, options: int = 3, **rules: Any) -> Poll:
        """A poll in which votes are taken."""
        poll = await self.create(options=options, rules=rules or None)
        assert (await self.change(poll, "open")).status == 200
        return poll

    async def read(self, poll: Poll, url: str | None = None) -> dict[str, Any]:
        answer = await self.get(f"/api/polls/{poll.code}", url=url)
        assert answer.status == 200, answer.text
        return answer.body
