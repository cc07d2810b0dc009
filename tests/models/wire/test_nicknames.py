"""Which nicknames are the same name."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.wire.nicknames import nickname_key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ada", "ADA"),
        ("Zoë", "Zoe\u0308"),
        ("Straße", "STRASSE"),
        ("Ada  L", "ada l"),
        ("ﬁn", "FIN"),
        ("Ａｄａ", "ada"),
        ("A\u200dda", "Ada"),
        ("Ada\ufe0f", "Ada"),
        ("A\u034fda\U000e0100", "Ada"),
    ],
)
def test_spellings_of_one_name_have_one_key(one: str, other: str) -> None:
    assert nickname_key(one) == nickname_key(other)


@pytest.mark.parametrize(("one", "other"), [("Ada", "Adam"), ("Zoë", "Zoe"), ("o-brien", "obrien"), ("李", "王")])
def test_different_names_have_different_keys(one: str, other: str) -> None:
    assert nickname_key(one) != nickname_key(other)


@given(st.text(max_size=50))
def test_the_key_doesnt_depend_on_normal_form_and_is_its_own_key(name: str) -> None:
    key = nickname_key(name)
    assert nickname_key(key) == key
    assert nickname_key(unicodedata.normalize("NFD", name)) == nickname_key(unicodedata.normalize("NFC", name))
