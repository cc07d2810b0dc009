"""What aiohttp answers by itself, before anything of ours sees it: odd expectations."""

from aiohttp import web, web_urldispatcher

_on_expect = web_urldispatcher._default_expect_handler


async def _pass_over_unknown(request: web.Request) -> None:
    if request.headers.get("Expect", "").lower() == "100-continue":
        await _on_expect(request)


def pass_over_unknown_expectations() -> None:
    """For all routes made from now on: RFC 9110 lets a server ignore an ``Expect`` that it doesn't know.

    aiohttp answers before any middleware, with a text that repeats the header and breaks where that has no encoding.
    """
    web_urldispatcher._default_expect_handler = _pass_over_unknown
