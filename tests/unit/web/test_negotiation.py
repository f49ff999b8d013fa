from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.web.request import choose, quality, takes_gzip
from tests.unit.web.client import OPENMETRICS, TEXT


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        # As Prometheus 2.42 and 3 ask.
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4", True),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", False),
        ("text/plain, application/openmetrics-text;q=0.2", False),
        ("application/openmetrics-text;q=0", False),
        ("APPLICATION/OpenMetrics-Text", True),
        ("text/*;q=0.9, application/openmetrics-text;q=0.8", False),
        ("*/*", False),
        ("application/*", False),
        ("text/html", False),
        ("", False),
        ("application/openmetrics-text;q=nan", False),
        ("application/openmetrics-text;q=inf", False),
        ("application/openmetrics-text;q=-1", False),
        ("application/openmetrics-text;q=x", False),
    ],
)
def test_openmetrics_needs_explicit_accept(accept: str, openmetrics: bool) -> None:  # noqa: FBT001 - pytest
    assert choose(accept, [TEXT, OPENMETRICS]) == int(openmetrics)


def test_single_document_ignores_accept() -> None:
    assert choose("application/json;q=0", [TEXT]) == 0


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("identity", False), ("*", False), ("", False)],
)
def test_gzip_needs_accept_encoding(accepted: str, packed: bool) -> None:  # noqa: FBT001 - pytest
    assert takes_gzip(accepted) is packed


@given(st.text(), st.sampled_from(["gzip", "text/plain", "*/*"]))
def test_quality_is_between_0_and_1(header: str, name: str) -> None:
    assert 0 <= quality(header, name) <= 1


@given(st.text())
def test_negotiation_selects_offered_type(accept: str) -> None:
    assert choose(accept, [TEXT, OPENMETRICS]) in {0, 1}
