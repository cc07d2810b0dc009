"""Names that two processes must agree on: queues, exchanges, events, Redis keys, Socket.IO rooms."""

from uuid import UUID

# Command queues. ``votes`` has worker processes of its own, so a backlog of votes never delays a host.
VOTES_QUEUE = "votes"
HOST_QUEUE = "host"
MEMBERS_QUEUE = "members"
AUDIT_QUEUE = "audit"
COMMAND_QUEUES = (VOTES_QUEUE, HOST_QUEUE, MEMBERS_QUEUE, AUDIT_QUEUE)

# Nodes send commands to this direct exchange, to which each command queue is bound under its name: by the default
# exchange, which leads to every queue, a node could write into any.
COMMANDS_EXCHANGE = "votemill.commands"

# Every node's reply queue is bound to this fan-out exchange; answers to one node go to its queue by name.
NODES_EXCHANGE = "votemill.nodes"

# By way of this direct exchange a node writes into its own reply queue, to hear whether it hears. Nodes make it.
ECHO_EXCHANGE = "node.echo"


def reply_queue(address: UUID) -> str:
    """The queue on which a node receives answers to its own commands. ``address`` is the node's id, or another one as
    long as the broker holds the queue of a connection that only the node knows to be gone."""
    return f"node.{address.hex}"


def dead_letter_queue(queue: str) -> str:
    """Where a command that can never be applied is kept, with its reason, until a person decides."""
    return f"{queue}.dead"


# The pub/sub channel of the Socket.IO Redis manager.
FANOUT_CHANNEL = "votemill"

# In a vote-update between processes, never to browsers: when the oldest vote that it is the first to show was received.
OLDEST_VOTE_US = "oldestVoteUs"
# Likewise: the poll's state when it had these totals. Who may see them follows from it.
TOTALS_STATE = "totalsState"

# In a vote-rejected likewise: the vote's seq, and the option that stands instead, -1 where that is not known.
REFUSED = "refused"


# Redis holds only what can be rebuilt from Postgres and from the living nodes.
def room_key(room_code: str) -> str:
    """Hash: ``version`` and ``snapshot`` (JSON of PollSnapshot), ``closing_us`` while a close is not applied yet;
    ``restored``, when it did not come to be with the poll, but was read back from the database."""
    return f"room:{room_code}"


def nicknames_key(room_code: str) -> str:
    """Hash: folded nickname -> participant id (hex). Arbitrates who has a nickname, for good or as ``reserved_key``
    says."""
    return f"room:{room_code}:nicknames"


def reserved_key(room_code: str) -> str:
    """Hash: participant id (hex) -> ``"deadline nickname"`` for nicknames that are taken and not yet registered, the
    deadline in milliseconds by Redis' clock; ``-`` -> a time before which none of them ends."""
    return f"room:{room_code}:reserved"


# Of no room: under their prefix, so that whatever takes out all rooms takes these out, too.
# Sorted set: node id (hex) -> when it had last told of all the nicknames that it knew, by Redis' clock.
NICKNAMES_HEARD_KEY = "room:-:heard"
NICKNAMES_SINCE_KEY = "room:-:since"  # string: when somebody first found Redis without it, likewise in milliseconds


def choices_key(room_code: str) -> str:
    """Hash: participant id (hex) -> ``"option:seq"``, option -1 before the first vote; and ``models.wire.choices``."""
    return f"room:{room_code}:choices"


def present_key(room_code: str) -> str:
    """Hash: participant id (hex) -> number of nodes on which that participant is connected."""
    return f"room:{room_code}:present"


def claim_key(room_code: str) -> str:
    """String: the browser (hex) that holds a room claimed without a host token."""
    return f"room:{room_code}:claim"


def browser_key(browser_id: UUID) -> str:
    """Hash: ``browser_field`` -> JSON of BrowserRole, and ``-`` as the mark that it is complete."""
    return f"browser:{browser_id.hex}"


def browser_field(room_code: str, participant_id: UUID | None) -> str:
    """One role of a browser: the host's in a room, or one participant's."""
    return f"{room_code}:{participant_id.hex if participant_id else 'host'}"


BROWSER_COMPLETE = "-"


def node_present_key(node_id: UUID) -> str:
    """Hash: ``CODE:participant id`` -> nickname. What one node has added to the rooms' presence, until it is reaped."""
    return f"node:{node_id.hex}:present"


def node_load_key(node_id: UUID) -> str:
    """String: JSON of NodeLoad, renewed with each heartbeat."""
    return f"node:{node_id.hex}:load"


NODES_ALIVE_KEY = "nodes:alive"  # sorted set: node id (hex) -> last heartbeat, seconds since the epoch


CLOCK_KEY = "clock"  # string: JSON of SharedTime, renewed once a second by every worker that knows the time


SCALER_KEY = "lead:scaler"  # string: the scaler that may change something, of several that run


# Hash: ``version``, ``values`` and ``levels`` (JSON), what operators have changed at runtime.
SETTINGS_KEY = "config:settings"


# Socket.IO rooms.
def poll_room(room_code: str) -> str:
    """Everybody who has joined a poll: participants, hosts, screens."""
    return room_code


def host_room(room_code: str) -> str:
    """The sockets that control a poll."""
    return f"host:{room_code}"


def totals_room(room_code: str) -> str:
    """Of a poll whose totals only some may see: the sockets that do, and are in the poll's own room as well."""
    return f"totals:{room_code}"


def nodes_room(room_code: str) -> str:
    """Socket.IO room in which no browser is: what nodes tell each other about a poll."""
    return f"nodes:{room_code}"


def participant_room(participant_id: UUID) -> str:
    """Every socket of one participant: two tabs are one participant."""
    return f"p:{participant_id.hex}"


def participant_of(room: str) -> UUID:
    """Whose room that is."""
    return UUID(hex=room.removeprefix("p:"))


# Events that the server sends to browsers (wire contract).
POLL_STATE_CHANGED = "poll-state-changed"
VOTE_UPDATE = "vote-update"
PARTICIPANT_JOINED = "participant-joined"
PARTICIPANT_LEFT = "participant-left"
PARTICIPANT_COUNT = "participant-count"
VOTE_RECORDED = "vote-recorded"
VOTE_REJECTED = "vote-rejected"
POLL_GONE = "poll-gone"
SESSION_RESUMED = "session-resumed"
RESULTS_PAUSED = "results-paused"
RESULTS_RESUMED = "results-resumed"
# From node to node.
FIRST_VOTERS = "first-voters"
# From workers to nodes.
POLL_RETIRED = "poll-retired"
