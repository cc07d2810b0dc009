"""Tells a team's webhook (Slack, Mattermost and the like take the same) that a run has failed."""

from __future__ import annotations

import json
import time
import urllib.request

from scripts.stack.progress import say

_TRIES, _PAUSE_S = 3, 2.0


def notify(url: str, text: str) -> bool:
    """Whether it was told. A webhook that is away costs a few seconds and never hides the failure itself."""
    request = urllib.request.Request(
        url, data=json.dumps({"text": text}).encode(), headers={"Content-Type": "application/json"}
    )
    for tried in range(1, _TRIES + 1):
        try:
            with urllib.request.urlopen(request, timeout=10):  # nosec B310: the operator's own address
                return True
        except (OSError, ValueError) as error:
            say(f"✗ nobody was notified: {error}")
            if tried < _TRIES:
                time.sleep(_PAUSE_S)
    return False
