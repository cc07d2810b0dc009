"""WebSocket frames from server to client (RFC 6455): unmasked, so the same bytes serve every member of a room."""

import struct

_LENGTH_16 = struct.Struct(">BBH")
_LENGTH_64 = struct.Struct(">BBQ")
_TEXT = 0x81
_BINARY = 0x82
_CLOSE = 0x88
_SHORT_TEXT = [bytes((_TEXT, size)) for size in range(126)]


def text_frame(payload: bytes) -> bytes:
    """A whole text message."""
    size = len(payload)
    return _SHORT_TEXT[size] + payload if size < 126 else _frame(_TEXT, payload)


def binary_frame(payload: bytes) -> bytes:
    """A whole binary message."""
    return _frame(_BINARY, payload)


def close_frame(code: int) -> bytes:
    """The end of the connection, with a close code of RFC 6455."""
    return _frame(_CLOSE, struct.pack(">H", code))


def _frame(head: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((head, size)) + payload
    if size < 65536:
        return _LENGTH_16.pack(head, 126, size) + payload
    return _LENGTH_64.pack(head, 127, size) + payload
