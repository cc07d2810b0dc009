"""The load tool's bytes: frames and packets, however TCP cuts them."""

import pytest

from scripts.loadtest import codec


def server_frame(payload: bytes, first: int = 0x81) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_client_frame_carries_its_payload_masked(size):
    payload = b"x" * size
    frame = codec.client_frame(payload)
    assert frame[0] == 0x81
    assert frame[1] & 0x80
    short = frame[1] & 0x7F
    extra = {126: 2, 127: 8}.get(short, 0)
    assert (int.from_bytes(frame[2 : 2 + extra], "big") if extra else short) == size
    key, masked = frame[2 + extra : 6 + extra], frame[6 + extra :]
    assert bytes(byte ^ key[index % 4] for index, byte in enumerate(masked)) == payload


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000, 10**6])
def test_frames_come_out_whole_however_they_are_cut(piece):
    payloads = [b"2", b"43" + b"a" * 124, b"", b"z" * 70_000, b"42[]"]
    stream = b"".join(map(server_frame, payloads))
    reader = codec.FrameReader()
    heard = [message for at in range(0, len(stream), piece) for message in reader.feed(stream[at : at + piece])]
    assert heard == payloads


def test_continuation_frames_are_joined_around_a_ping():
    reader = codec.FrameReader()
    stream = (
        server_frame(b"42[", 0x01) + server_frame(b"hi", 0x89) + server_frame(b"1,", 0x00) + server_frame(b"2]", 0x80)
    )
    assert reader.feed(stream) == [b"42[1,2]"]
    assert reader.pings == [b"hi"]


def test_a_close_frame_is_noticed():
    reader = codec.FrameReader()
    assert reader.feed(server_frame(b"6") + server_frame(b"\x03\xe8", 0x88)) == [b"6"]
    assert reader.closed


@pytest.mark.parametrize("wrong", [b"\x81\x81\0\0\0\0a", b"\xc1\x01a", b"\x81\x7f" + b"\xff" * 8, b"\x80\x01a"])
def test_masked_compressed_oversized_and_stray_frames_are_refused(wrong):
    with pytest.raises(codec.ProtocolError):
        codec.FrameReader().feed(wrong)


def test_an_upgrade_needs_its_own_accept_key():
    request, accept = codec.upgrade_request("127.0.0.1", 4000)
    assert b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n" in request
    codec.check_upgrade(b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-ACCEPT: " + accept, accept)
    for head in (b"HTTP/1.1 503 Service Unavailable", b"HTTP/1.1 101 X\r\nSec-WebSocket-Accept: other", b""):
        with pytest.raises(codec.ProtocolError):
            codec.check_upgrade(head, accept)


def test_an_ack_is_split_and_holds_exactly_one_object():
    packet = b'43127[{"success":true}]'
    number, bracket = codec.split_ack(packet)
    assert number == 127
    assert codec.ack_body(packet, bracket) == {"success": True}
    for wrong in (b"431[]", b"431[1]", b"431[{},{}]", b"431[{"):
        with pytest.raises(codec.ProtocolError):
            codec.ack_body(wrong, codec.split_ack(wrong)[1])
    with pytest.raises(codec.ProtocolError):
        codec.split_ack(b"43[{}]")


def test_an_event_is_framed_with_its_ack_id_and_its_body_read_back():
    frame = codec.event_frame(7, "join-room", {"roomCode": "ABC234"})
    assert frame.endswith(b'427["join-room",{"roomCode":"ABC234"}]')
    assert codec.event_body(b'42["vote-rejected",{"code":"late"}]') == {"code": "late"}
    assert codec.event_body(b'42["bare"]') == {}
