"""Signing keys: which signs, which verify, and how one follows the other without a token being lost."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from models.runtime.signing_keys import KeyFile, KeyRing, KeysUnusable, SigningKey, rotated, usable

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
MINUTE, MONTH = timedelta(minutes=1), timedelta(days=30)
OLD = SigningKey("o" * 32, NOW - MONTH)
OLDER = SigningKey("r" * 32, NOW - 2 * MONTH, expires_at=NOW + timedelta(days=3))


def write(file: Path, *keys: SigningKey) -> None:
    file.write_bytes(msgspec.json.encode(KeyFile(keys)))


@pytest.mark.proves("FR-024")
def test_a_new_key_verifies_at_once_and_signs_when_every_node_knows_it() -> None:
    # When a key is rotated, to sign in a minute
    new, old = rotated([OLD], NOW, MINUTE, MONTH).keys
    # Then both verify from now on, and the old one signs for that minute
    assert usable([new, old], NOW) == [old.key, new.key]
    assert usable([new, old], NOW + MINUTE) == [new.key, old.key]


@pytest.mark.proves("FR-024")
def test_an_old_key_verifies_until_the_last_token_that_it_signed_has_expired() -> None:
    new, old, older = rotated([OLD, OLDER], NOW, MINUTE, MONTH).keys
    last_signed = NOW + MINUTE
    assert old.key in usable([new, old], last_signed + MONTH)
    assert usable([new, old], last_signed + MONTH + 2 * MINUTE) == [new.key]
    # One that was on its way out stays no longer for it, and is gone with the next rotation
    assert older.expires_at == OLDER.expires_at
    later = rotated([new, old, older], NOW + timedelta(days=4), MINUTE, MONTH).keys
    assert [key.key for key in later[1:]] == [new.key, old.key]


def test_each_key_is_another_one() -> None:
    made = {rotated([OLD], NOW, MINUTE, MONTH).keys[0].key for _ in range(100)}
    assert len(made) == 100 and min(map(len, made)) >= 43  # 256 bits


def test_where_the_clock_is_wrong_somebody_signs_all_the_same() -> None:
    new, old = rotated([OLD], NOW, MINUTE, MONTH).keys
    first = msgspec.structs.replace(old, signs_from=NOW)
    assert usable([new, first], NOW - timedelta(days=1))[0] == old.key
    assert usable([OLDER], NOW + 10 * MONTH) == [OLDER.key]


def test_a_ring_takes_over_what_the_file_says_and_keeps_its_keys_when_it_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    write(file, OLD)
    ring = KeyRing([SigningKey("listed" * 6)], file)
    assert ring.usable() == [OLD.key]
    # When the file is spoilt, or gone
    for spoil in (lambda: file.write_text('{"keys": [{"key": "secret-but-short"}]}'), file.unlink):
        spoil()
        # Then that is said once, without what is in it, and the keys stay
        with pytest.raises(KeysUnusable) as told:
            ring.refresh()
        assert str(file) in str(told.value) and "secret" not in str(told.value)
        ring.refresh()
        assert ring.usable() == [OLD.key]
    # And once it is whole again it counts
    write(file, SigningKey("n" * 32), OLD)
    ring.refresh()
    assert ring.usable() == ["n" * 32, OLD.key]


def test_without_a_file_the_list_counts_and_another_one_when_there_is_one(tmp_path: Path) -> None:
    ring = KeyRing([SigningKey("a" * 32), SigningKey("b" * 32)], None)
    ring.refresh()
    assert ring.usable() == ["a" * 32, "b" * 32]
    ring.use([SigningKey("c" * 32)])
    assert ring.usable() == ["c" * 32]
    # With a file it doesn't count
    write(tmp_path / "keys.json", OLD)
    ring = KeyRing([], tmp_path / "keys.json")
    ring.use([SigningKey("c" * 32)])
    assert ring.usable() == [OLD.key]


def test_the_age_of_the_key_that_signs_is_known_when_somebody_wrote_down_when_it_was_made(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    new, old = rotated([SigningKey("o" * 32, now - timedelta(days=200))], now, MINUTE, MONTH).keys
    file = tmp_path / "keys.json"
    # The new one doesn't sign yet
    write(file, new, old)
    assert KeyRing([], file).signing_age_days() == pytest.approx(200, abs=0.1)
    assert KeyRing([SigningKey("o" * 32)], None).signing_age_days() is None
