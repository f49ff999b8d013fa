"""The promises of SECURITY.md and the threat model are held by tests that exist."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.support.references import function_names

TREE = Path(__file__).parents[2]
PAGES = ("SECURITY.md", "docs/operate/threat-model.md")
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def promises(page: str) -> list[str]:
    """The rows of the page's tables, without their heads."""
    text = re.sub(r"<!--.*?-->", "", (TREE / page).read_text(), flags=re.DOTALL)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    heads = {row for row, rule in itertools.pairwise(rows) if re.fullmatch(r"[|: -]+", rule)}
    return [row for row in rows if row not in heads and not re.fullmatch(r"[|: -]+", row)]


@pytest.mark.parametrize("page", PAGES)
def test_every_promise_has_a_test(page: str) -> None:
    rows = promises(page)
    assert rows
    for row in rows:
        references = REFERENCE.findall(row)
        assert references, row
        for path, name in references:
            assert name in function_names(TREE / path), f"{page}: {path} has no {name}"


def test_security_md_is_short() -> None:
    assert 3 < len(promises("SECURITY.md")) <= 12
