"""All pairs of hosts: each way of counting contents against the intersection of two sets."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.analysis.fleet import queries
from samepaged.analysis.fleet.counting import Tally
from samepaged.analysis.fleet.duckdb_engine import DuckDbEngine
from samepaged.traces.database import database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

HOSTS = 64
GUESTS = HOSTS * 9  # contents of more than 512 guests use blocks

# (guest, content) of every kind: with few, some and many guests, and of the same, similar and random hosts.
Rows = list[tuple[int, int]]


@st.composite
def fleets(draw: st.DrawFn) -> Rows:
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows: Rows = []
    for family in range(draw(st.integers(1, 3))):
        guests = random.permutation(GUESTS)[: draw(st.sampled_from([1, 2, 5, 20, 40, 530]))]
        kept = draw(st.sampled_from([0.3, 0.9, 1.0]))
        for content in range(draw(st.sampled_from([1, 3, 62, 63, 130]))):
            number = (family << 32) + content - (1 << 62) * (content % 3)
            rows += [(int(guest), number) for guest in guests[random.random(len(guests)) < kept]]
    return rows


@pytest.fixture(scope="module")
def engine() -> Iterator[DuckDbEngine]:
    with database() as connection:
        yield DuckDbEngine(connection)


def number(engine: DuckDbEngine, rows: Rows) -> None:
    """Return the rows that the engine would read from files; every content of a guest has two pages."""
    table: NDArray[np.int64] = np.array(rows, dtype=np.int64).reshape(-1, 2)
    columns = {"guest": table[:, 0].astype(np.int32), "hash": table[:, 1], "host": (table[:, 0] % HOSTS)}
    engine._connection.register("columns", columns)
    engine.materialize(
        "numbered", "SELECT guest, CAST(host AS INTEGER) AS host, hash, CAST(2 AS INTEGER) AS pages FROM columns"
    )
    engine._connection.unregister("columns")


def counted(engine: DuckDbEngine, rows: Rows) -> Tally:
    number(engine, rows)
    tally = Tally(GUESTS, HOSTS)
    tally.add(engine)
    return tally


def pairs_of(held: dict[int, set[int]]) -> list[tuple[int, int, int]]:
    shared = [(a, b, len(held[a] & held[b])) for a, b in combinations(range(HOSTS), 2)]
    return sorted((pair for pair in shared if pair[2]), key=lambda pair: (-pair[2], pair[:2]))


@settings(max_examples=40)
@given(rows=fleets())
def test_host_pairs_equal_set_intersections(engine: DuckDbEngine, rows: Rows) -> None:
    tally = counted(engine, rows)
    held: dict[int, set[int]] = {host: set() for host in range(HOSTS)}
    for guest, content in rows:
        held[guest % HOSTS].add(content)
    owners = Counter(content for contents in held.values() for content in contents)
    assert list(tally.pairs()) == pairs_of(held)
    assert tally.held == [len(held[host]) for host in range(HOSTS)]
    assert tally.alone == [sum(owners[content] == 1 for content in held[host]) for host in range(HOSTS)]
    assert tally.shared == sum(count > 1 for count in owners.values())
    guests = Counter(content for _, content in rows)
    widespread = [(content, owners[content], guests[content], 2 * guests[content]) for content in owners]
    shared = [one for one in widespread if one[1] > 1]
    assert tally.widespread == sorted(shared, key=lambda one: (-one[2], one[0]))[:10]
    read = Counter(guest for guest, _ in rows)
    assert tally.rows == [read[guest] for guest in range(GUESTS)]


WRITTEN_OUT = """
SELECT a.host, b.host, count(*) FROM (SELECT DISTINCT hash, host FROM numbered) AS a
JOIN (SELECT DISTINCT hash, host FROM numbered) AS b ON a.hash = b.hash AND a.host < b.host GROUP BY a.host, b.host
"""


@settings(max_examples=15)
@given(rows=fleets())
def test_words_equal_explicit_pairs(engine: DuckDbEngine, rows: Rows) -> None:
    tally = counted(engine, rows)
    assert sorted(tally.pairs()) == sorted(engine.rows(WRITTEN_OUT))


def kinds(engine: DuckDbEngine) -> tuple[bool, bool, bool]:
    """Return whether contents are written out, in words, and in blocks."""
    holders, words, blocks = (
        engine.rows(f"SELECT count(*) FROM {name}")[0][0]  # noqa: S608 - of this test's own words
        for name in ("holders", "dense WHERE word < 2305843009213693952", "blocks")
    )
    return bool(holders), bool(words), bool(blocks)


def test_pair_method_by_holder_count(
    engine: DuckDbEngine,
) -> None:
    for guests, expected in ((4, (True, False, False)), (40, (False, True, False)), (550, (False, False, True))):
        counted(engine, [(guest, content) for guest in range(guests) for content in range(100)])
        assert kinds(engine) == expected


def test_sparse_word_uses_explicit_pairs(engine: DuckDbEngine) -> None:
    # All have the same first and last host, and different hosts in between.
    rows = [
        (host + HOSTS * times, content) for content in range(62) for host in (0, 1 + content, 63) for times in range(2)
    ]
    tally = counted(engine, rows)
    assert kinds(engine) == (True, False, False)
    assert next(tally.pairs()) == (0, 63, 62)


def test_hash_range_is_half_open(engine: DuckDbEngine) -> None:
    assert "WHERE" not in queries.numbered_rows(None, None)
    assert queries.numbered_rows(-5, 7).endswith("WHERE traces.hash >= -5 AND traces.hash < 7")
