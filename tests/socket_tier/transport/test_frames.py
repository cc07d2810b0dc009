"""Frames as RFC 6455 wants them, read back by aiohttp's own parser."""

import asyncio

import pytest
from aiohttp import WSMsgType
from aiohttp._websocket.reader import WebSocketDataQueue
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import WebSocketReader

from socket_tier.transport.frames import binary_frame, close_frame, text_frame


async def parsed(frame: bytes):
    sink = WebSocketDataQueue(BaseProtocol(asyncio.get_running_loop()), 2**24, loop=asyncio.get_running_loop())
    WebSocketReader(sink, 2**24, compress=False, decode_text=False).feed_data(frame)
    return await sink.read()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
async def test_a_text_of_any_length_is_one_whole_frame(size):
    message = await parsed(text_frame(b"x" * size))
    assert (message.type, message.data) == (WSMsgType.TEXT, b"x" * size)


async def test_binary_and_close_frames_are_what_they_say():
    binary = await parsed(binary_frame(b"\x00\xff"))
    closing = await parsed(close_frame(1012))
    assert (binary.type, binary.data) == (WSMsgType.BINARY, b"\x00\xff")
    assert (closing.type, closing.data) == (WSMsgType.CLOSE, 1012)
