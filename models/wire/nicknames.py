"""Which nicknames are the same person's name to a reader, and how Redis is told that one is registered."""

import unicodedata

NICKNAMES_OUTLIVE_S = 86_400  # so that a room never stands there without its nicknames

# Makes nicknames durable whose registration can't be lost any more: puts back what Redis has lost, and ends their
# reservations. KEYS: nicknames, reserved. ARGV: seconds to live; nickname key, participant, ... and so on.
HOLD_NICKNAMES = """
for i = 2, #ARGV, 2 do
  redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1])
  redis.call('HDEL', KEYS[2], ARGV[i + 1])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""

# Joiners and selectors change how neighbours are drawn and are not seen themselves: with one of them in it, a name
# would look like another's.
_UNSEEN = dict.fromkeys((0x034F, 0x200D, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))


def nickname_key(nickname: str) -> str:
    """Unicode-normalised and case-folded, without what is not seen: equal keys are the same nickname.

    A run of spaces counts as one.
    """
    seen = nickname.translate(_UNSEEN)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    return " ".join(folded.split())
