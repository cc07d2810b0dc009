"""Which nicknames are the same person's name to a reader."""

import unicodedata


def nickname_key(nickname: str) -> str:
    """Unicode-normalised and case-folded, with runs of spaces as one: equal keys are the same nickname."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", nickname).casefold())
    return " ".join(folded.split())
