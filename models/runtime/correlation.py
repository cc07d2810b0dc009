"""One id for all that a call, an event or a command makes happen, in every process that has a part in it.

It is a W3C trace id: the caller's, when it sends a ``traceparent``, else a new one. It travels in the command's
message, in a comment of each SQL statement, in what is emitted, and back in the answer.

Votes travel hundreds to a message, and one that is not logged singly has no such id. A vote's ``commandId``, its
client's own id for it, serves in its place: lines about a single vote have it, and ``scripts/trace`` takes either.
"""

import os
import re
from contextvars import ContextVar
from uuid import uuid4

# What the work of this task or thread is part of: 32 hexadecimal digits, empty when it is part of nothing.
correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")
# This process's share in it: 16 digits.
span_id: ContextVar[str] = ContextVar("span_id", default="")
# Whether the caller has named the trace, and so wants to find it again.
named_by_caller: ContextVar[bool] = ContextVar("named_by_caller", default=False)

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_ID = re.compile(r"[0-9a-f]{32}")
_MOST_CHARACTERS = 200


def new_id() -> str:
    """An id for what nobody has given one."""
    return uuid4().hex


def begin(traceparent: object = None, otherwise: str = "") -> str:
    """Let this task's or thread's work be part of the caller's trace, or without one of ``otherwise`` or a new one.

    Returns the correlation id.
    """
    named = _trace_id(traceparent)
    # It becomes a comment in SQL: nothing but an id may be one.
    trace = named or (otherwise if _ID.fullmatch(otherwise) else new_id())
    correlation_id.set(trace)
    span_id.set(os.urandom(8).hex())
    named_by_caller.set(bool(named))
    return trace


def end() -> None:
    """What comes next is part of nothing."""
    correlation_id.set("")
    span_id.set("")
    named_by_caller.set(False)


def traceparent() -> str:
    """What the next process continues, as the W3C writes it; empty when there is nothing."""
    trace = correlation_id.get()
    return f"00-{trace}-{span_id.get()}-01" if trace else ""


def _trace_id(traceparent: object) -> str:
    """Empty when it isn't one, which is no error (W3C Trace Context)."""
    if not isinstance(traceparent, str) or len(traceparent) > _MOST_CHARACTERS:
        return ""
    found = _TRACEPARENT.fullmatch(traceparent)
    return found[1] if found else ""
