"""Which nicknames are the same person's name to a reader."""

import unicodedata

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
