"""The check of the language: extraction of prose, and counting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.prose.__main__ import Located, faults, rates
from tools.prose.extract import Passage, comments, docstrings, markdown, messages
from tools.prose.patterns import sentence_lengths, words

MARKDOWN = """\
# A heading

A paragraph with `code`
on two lines. See [the page](there.md).

    what = 1  # a code block

```
who = 2
```

- an item
  that goes on

| a | table |
|---|---|
| of | cells |
"""
PYTHON = '''\
"""A module."""

# A comment
# of two lines.
KEY = "key"


def function() -> str:
    """A function."""
    return "a message of some words"
'''


def test_markdown_has_prose_without_code() -> None:
    assert [(one.line, one.text.strip(), one.sentences) for one in markdown(MARKDOWN)] == [
        (1, "A heading", False),
        (3, "A paragraph with code on two lines. See the page.", True),
        (12, "an item that goes on", True),
        (15, "|  a  |  table  |", False),
        (17, "|  of  |  cells  |", False),
    ]


def test_python_has_docstrings_comments_and_messages() -> None:
    assert [one.text for one in docstrings(PYTHON)] == ["A module.", "A function."]
    assert [one.text for one in comments(PYTHON)] == ["A comment of two lines."]
    assert [one.text for one in messages(PYTHON)] == ["a message of some words"]


def test_sentences_are_counted_in_words() -> None:
    assert sentence_lengths("samepaged runs. It hashes pages, e.g. zero pages! ") == [2, 6]
    assert words("128 MiB of page_size bytes") == 5


@pytest.mark.parametrize("text", ["whoever reads this", "nobody reads", "read anew"])
def test_banned_word_is_a_fault(text: str) -> None:
    found = faults([Located("docs", "page.md", Passage(7, text))])
    assert any(line.startswith("page.md:7: ") for line in found)


def test_high_rate_is_a_fault() -> None:
    often = [Located("docstrings", "a.py", Passage(1, "what it is " * 10))]
    assert any(line.startswith("docstrings: what: ") for line in faults(often))
    assert rates(often)["docstrings", "what"] == pytest.approx(1000 / 3)


@given(st.text())
def test_any_text_has_passages(text: str) -> None:
    for one in markdown(text):
        assert 1 <= one.line <= len(text.splitlines()) + 1
