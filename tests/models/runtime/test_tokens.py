"""Signed tokens: rotation, forgery, expiry, and clocks that disagree."""

from uuid import UUID

import pytest

from models.runtime import tokens as tokens_module
from models.runtime.tokens import HostToken, InvalidToken, ParticipantToken, Tokens

OLD, NEW, FOREIGN = ("o" * 32, "n" * 32, "f" * 32)
ADA = ParticipantToken(7, UUID(int=1), "Ada", 1)
MONTH_S = 2_592_000


def test_each_kind_is_read_back_as_it_was_signed() -> None:
    tokens = Tokens([OLD], MONTH_S)
    assert tokens.read_participant(tokens.sign_participant(ADA)) == ADA
    assert tokens.read_host(tokens.sign_host(HostToken(7, 2))) == HostToken(7, 2)
    assert tokens.read_browser(tokens.sign_browser(UUID(int=3))) == UUID(int=3)


def test_keys_are_rotated_by_prepending_a_new_one() -> None:
    # Given a token signed before the rotation
    before = Tokens([OLD], MONTH_S).sign_participant(ADA)
    # When a new key is put in front
    rotated = Tokens([NEW, OLD], MONTH_S)
    # Then the old token is still good, and new ones are signed with the new key
    assert rotated.read_participant(before) == ADA
    assert Tokens([NEW], MONTH_S).read_participant(rotated.sign_participant(ADA)) == ADA
    # And once the old key is gone its tokens are worth nothing
    with pytest.raises(InvalidToken):
        Tokens([NEW], MONTH_S).read_participant(before)


def test_a_token_that_was_changed_anywhere_is_refused() -> None:
    tokens = Tokens([OLD], MONTH_S)
    token = tokens.sign_host(HostToken(7, 1))
    for position, character in enumerate(token[:-1]):  # the very last one carries unused bits
        changed = token[:position] + ("A" if character != "A" else "B") + token[position + 1 :]
        with pytest.raises(InvalidToken):
            tokens.read_host(changed)


@pytest.mark.parametrize("text", ["", ".", "a.b.c", "é", "\x00", "x" * 5_000, "WzcsMV0.aaaaaa.", "\udcff"])
def test_what_is_no_token_is_refused(text: str) -> None:
    tokens = Tokens([OLD], MONTH_S)
    for read in (tokens.read_host, tokens.read_participant, tokens.read_browser):
        with pytest.raises(InvalidToken):
            read(text)


def test_one_kind_is_not_mistaken_for_another() -> None:
    tokens = Tokens([OLD], MONTH_S)
    host, participant = tokens.sign_host(HostToken(7, 1)), tokens.sign_participant(ADA)
    browser = tokens.sign_browser(UUID(int=3))
    for read, others in (
        (tokens.read_host, (participant, browser)),
        (tokens.read_participant, (host, browser)),
        (tokens.read_browser, (host, participant)),
    ):
        for token in others:
            with pytest.raises(InvalidToken):
                read(token)


def test_a_token_signed_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(InvalidToken):
        Tokens([OLD], MONTH_S).read_participant(Tokens([FOREIGN], MONTH_S).sign_participant(ADA))


def test_a_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens([OLD], MONTH_S)
    token = tokens.sign_participant(ADA)
    now = tokens_module.clock.now_us()
    monkeypatch.setattr(tokens_module.clock, "now_us", lambda: now + (MONTH_S - 10) * 1_000_000)
    assert tokens.read_participant(token) == ADA
    monkeypatch.setattr(tokens_module.clock, "now_us", lambda: now + (MONTH_S + 10) * 1_000_000)
    with pytest.raises(InvalidToken) as refused:
        tokens.read_participant(token)
    assert refused.value.reason == "expired"


def test_a_token_signed_where_the_clock_is_ahead_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens([OLD], MONTH_S)
    token = tokens.sign_participant(ADA)
    now = tokens_module.clock.now_us()
    monkeypatch.setattr(tokens_module.clock, "now_us", lambda: now - 2_000_000)
    assert tokens.read_participant(token) == ADA


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a.b.c", "\udcff\udcfe", "\ud800", "💥", "\x00", "e30.e30.e30", "." * 5000]
)
def test_what_was_never_a_token_is_refused(text: str) -> None:
    tokens = Tokens([OLD], MONTH_S)
    for read in (tokens.read_participant, tokens.read_host, tokens.read_browser):
        with pytest.raises(InvalidToken):
            read(text)
