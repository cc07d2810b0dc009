"""Messages as they were sent: one a line, byte for byte.

A new field or kind gets a line of its own beside the old ones; a line goes when no version that still runs sends it.
"""

from __future__ import annotations

from pathlib import Path

MESSAGES = Path(__file__).with_name("messages")


def frozen(name: str) -> list[bytes]:
    return (MESSAGES / f"{name}.jsonl").read_bytes().splitlines()
