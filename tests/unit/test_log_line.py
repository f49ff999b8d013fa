"""Details of a log line cannot end it or look like others."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from samepaged.log_line import details

DETAIL = re.compile(r' (\w+)=("(?:[^"\\]|\\.)*"|[^\s"=]+)')


def test_details_have_the_form_of_logfmt() -> None:
    line = details(
        domain="web-1", uri="qemu:///system", seconds=0.123456789, guests=3, path=None, error="no space; free some"
    )
    assert line == ' domain="web-1" uri=qemu:///system seconds=0.123457 guests=3 error="no space; free some"'


@given(st.text(), st.text())
def test_hostile_text_stays_one_value(name: str, error: str) -> None:
    line = details(domain=name, error=error)
    assert line.isprintable()
    found = DETAIL.findall(line)
    assert "".join(f" {key}={value}" for key, value in found) == line
    assert [key for key, _ in found] == ["domain", "error"]
    assert json.loads(found[0][1]) == name
