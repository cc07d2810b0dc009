"""How participants' last acked choices stand in Redis, and the one script by which nodes and workers write them."""

from collections.abc import Iterable

NOT_COUNTED = -2  # in place of an option: a vote of this seq was refused

# KEYS: choices. ARGV: seconds to live; "participant option seq ..." in one string, since a client spends more on each
# argument than on all else; 1 to add what is missing, 0 only to replace what is there.
#
# The highest seq wins. A refused vote leaves its seq under "participant!": what was chosen at or below it does not
# count as known, so whoever resumes asks the database. It stays, so that neither a node which writes the refused
# choice late nor one that puts an older one back is believed. It is no value of the choice's own field: nodes of the
# version before would show it.
STORE_CHOICES = """
for participant, option, seq in string.gmatch(ARGV[2], '(%S+) (%S+) (%S+)') do
  local stored = redis.call('HMGET', KEYS[1], participant, participant .. '!')
  local at = tonumber(seq)
  local known = stored[1] and tonumber(string.match(stored[1], ':(%d+)'))
  local refused = stored[2] and tonumber(stored[2]) or -1
  if option == '-2' then
    if refused < at and not (known and known > at) then
      redis.call('HSET', KEYS[1], participant .. '!', seq)
      if known then redis.call('HDEL', KEYS[1], participant) end
    end
  elseif refused < at and (known and known < at or not known and ARGV[3] == '1') then
    redis.call('HSET', KEYS[1], participant, option .. ':' .. seq)
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""


def refused_field(participant: str) -> str:
    """Where the seq of a participant's latest refused vote stands."""
    return f"{participant}!"


def packed(choices: Iterable[tuple[str, int, int]]) -> str:
    """Participant's id in hex, option (-1 for none, or ``NOT_COUNTED``) and seq each, as the script takes them."""
    return " ".join([f"{participant} {option} {seq}" for participant, option, seq in choices])
