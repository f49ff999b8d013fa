from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.escape import printable, valid
from samepaged.text_layout import columns, elided

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()))


@given(st.text())
def test_valid_unicode_is_unchanged(text: str) -> None:
    assert valid(text) == text


@given(ANY_TEXT)
def test_any_text_encodes_as_utf_8(text: str) -> None:
    assert valid(valid(text)) == valid(text)
    valid(text).encode("utf-8")


@given(ANY_TEXT)
def test_control_characters_are_escaped(text: str) -> None:
    assert printable(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web-1", "web-1"),
        ("客 ä", "客 ä"),
        ("a\nb", r"a\nb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\u202eb", r"a\u202eb"),
        ("\udcff", r"\udcff"),
    ],
)
def test_control_characters_become_their_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_column_widths_of_characters() -> None:
    assert [columns(text) for text in ("abc", "客", "e\u0301", "")] == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("short", 5, "short"),
        ("database-production-7", 13, "datab...ion-7"),
        ("客客客客客", 7, "客...客"),
        ("abcdef", 2, "ab"),
        ("abcdef", 0, ""),
    ],
)
def test_elision_keeps_start_and_end(text: str, width: int, shown: str) -> None:
    assert elided(text, width) == shown


@given(st.text(), st.integers(0, 30))
def test_an_elided_name_fits(text: str, width: int) -> None:
    assert columns(elided(text, width)) <= width
