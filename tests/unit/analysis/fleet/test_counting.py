"""Common contents of a fleet's hosts, from files to numbers, against sets; damaged files are errors."""

from __future__ import annotations

import contextlib
import math
from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.analysis.fleet.counting import analyse_fleet
from samepaged.analysis.fleet.duckdb_engine import DuckDbEngine, duckdb_engine
from samepaged.errors import SamepagedError, TraceError, UsageError
from samepaged.sharing import FIRST_HASH
from samepaged.traces import Trace, TraceStore, newest_traces, parquet, read, sample_threshold, survey
from samepaged.traces.database import database
from tests.support.fleet import WHEN, guest, rewrite, write_mixed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from samepaged.analysis.fleet.engine import Engine
    from samepaged.analysis.fleet.result import Fleet

P, Q = 2**64 - 1, 5


def engine_of(rows_at_once: int) -> Callable[[], AbstractContextManager[Engine]]:
    @contextlib.contextmanager
    def opened() -> Iterator[Engine]:
        with database() as connection:
            yield DuckDbEngine(connection, rows_at_once)

    return opened


def shared(found: Fleet) -> dict[tuple[str, str], int]:
    return {pair.hosts: pair.shared for pair in found.pairs}


def by_sets(traces: list[Trace]) -> dict[tuple[str, str], int]:
    held: dict[str, set[int]] = {}
    for trace in traces:
        held.setdefault(trace.info.host, set()).update(trace.hashes.tolist())
    pairs = {(a, b): len(held[a] & held[b]) for a, b in combinations(sorted(held), 2)}
    return {pair: count for pair, count in pairs.items() if count}


def test_paper_example_on_two_hosts(tmp_path: Path) -> None:
    # A and B hold three copies of P, C three of Q: self 2 + 2 + 2, inter 1.
    store = TraceStore(tmp_path)
    store.write(guest("kvm-1", "A", [P, P, P]))
    store.write(guest("kvm-2", "B", [P, P, P]))
    store.write(guest("kvm-2", "C", [Q, Q, Q]))
    found = analyse_fleet(tmp_path, duckdb_engine)
    assert (found.distinct_pages, found.duplicate_pages) == (2, 7)
    assert (found.self_sharing_pages, found.inter_sharing_pages) == (6, 1)
    assert shared(found) == {("kvm-1", "kvm-2"): 1}
    assert [(host.name, host.guests, host.sampled_contents, host.exclusive_contents) for host in found.hosts] == [
        ("kvm-1", 1, 1, 0),
        ("kvm-2", 2, 2, 1),
    ]
    assert [(one.hosts, one.guests, one.pages) for one in found.common_contents] == [(2, 2, 6)]
    assert (found.oldest, found.newest) == (WHEN, WHEN)


guests = st.tuples(
    st.sampled_from(["a", "b", "c", "d"]),
    st.lists(st.integers(FIRST_HASH, 12) | st.integers(2**63 - 4, 2**63 + 4), max_size=20),
)


@settings(max_examples=12)
@given(st.lists(guests, min_size=1, max_size=6))
def test_fleet_counts_equal_set_counts(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, list[int]]]
) -> None:
    traces = [guest(host, f"guest-{number}", pages) for number, (host, pages) in enumerate(members)]
    place = tmp_path_factory.mktemp("fleet")
    parquet.write(place / "export.parquet", traces)
    found = analyse_fleet(place, engine_of(16))
    assert shared(found) == by_sets(traces)
    assert found.distinct_pages == len({content for trace in traces for content in trace.hashes.tolist()})
    assert found.distinct_pages + found.duplicate_pages == sum(int(trace.pages.sum()) for trace in traces)
    for host in found.hosts:
        held = [set(trace.hashes.tolist()) for trace in traces if trace.info.host == host.name]
        assert found.inter_sharing_of(host) == sum(map(len, held)) - len(set().union(*held))


@settings(max_examples=12)
@given(st.lists(guests, min_size=1, max_size=6), st.sampled_from([1, 2, 64]))
def test_estimates_are_bounded_by_guests(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, list[int]]], sample: int
) -> None:
    traces = [guest(host, f"guest-{number}", pages) for number, (host, pages) in enumerate(members)]
    place = tmp_path_factory.mktemp("fleet")
    parquet.write(place / "export.parquet", traces)
    found = analyse_fleet(place, duckdb_engine, sample=sample)
    most = dict.fromkeys((host.name for host in found.hosts), 0)
    for trace in traces:
        most[trace.info.host] += trace.info.distinct_pages
    low, high = found.distinct_bounds
    assert low <= found.distinct_pages <= high <= sum(most.values())
    assert found.inter_sharing_pages >= 0
    for host in found.hosts:
        assert found.exclusive_pages_of(host) <= found.distinct_pages_of(host) <= most[host.name]
    for pair in found.pairs:
        low, high = found.bounds_of(pair)
        assert low <= found.shared_pages_of(pair) <= high <= min(most[name] for name in pair.hosts)


def test_pairs_are_sorted_by_sharing(tmp_path: Path) -> None:
    pages = {"d": [9, 10, 11], "c": [9, 10], "b": [9, 10], "a": [9], "e": [99]}
    parquet.write(tmp_path / "x.parquet", [guest(host, host, held) for host, held in pages.items()])
    order = ["b c", "b d", "c d", "a b", "a c", "a d"]
    assert [" ".join(pair.hosts) for pair in analyse_fleet(tmp_path, duckdb_engine).pairs] == order


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mixed")
    write_mixed(place, hosts=4, guests=4)
    return place


def newest_of(place: Path) -> list[Trace]:
    wanted = {
        (about.host, about.domain, about.scanned_at) for _, about in newest_traces(survey(place, mixed_samples=True))
    }
    traces = [trace for file in survey(place, mixed_samples=True) for trace in read(file.path)]
    return [one for one in traces if (one.info.host, one.info.domain, one.info.scanned_at) in wanted]


def test_newest_trace_of_each_guest_counts(mixed: Path) -> None:
    traces = newest_of(mixed)
    assert len(traces) == 16
    found = analyse_fleet(mixed, duckdb_engine)
    assert shared(found) == by_sets(traces)
    assert found.sample == 1


def test_sample_has_error_bounds(mixed: Path) -> None:
    whole, found = analyse_fleet(mixed, duckdb_engine), analyse_fleet(mixed, duckdb_engine, sample=4)
    assert shared(found) == by_sets([trace.sampled(4) for trace in newest_of(mixed)])
    assert (found.hashed_pages, found.self_sharing_pages) == (whole.hashed_pages, whole.self_sharing_pages)
    low, high = found.distinct_bounds
    assert low <= whole.distinct_pages <= high < 1.2 * low
    assert found.distinct_error == pytest.approx(math.sqrt(0.75 / found.contents))
    exact = shared(whole)
    for pair in found.pairs:
        low, high = found.bounds_of(pair)
        assert low <= exact[pair.hosts] <= high
        assert found.error_of(pair) == pytest.approx(math.sqrt(0.75 / pair.shared))


def test_sampled_files_set_the_sample(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    traces = [guest(host, "x", list(range(2**63, 2**64, 2**55))) for host in "ab"]
    store.write(traces[0])
    parquet.write(tmp_path / "sampled.parquet", [traces[1].sampled(8)])
    for asked, sample in ((1, 8), (4, 8), (16, 16)):
        found = analyse_fleet(tmp_path, duckdb_engine, sample=asked)
        assert found.sample == sample
        most = sample_threshold(sample)
        assert most is not None
        assert shared(found) == {("a", "b"): (most + 2**63) // 2**55}


def test_part_size_changes_nothing(mixed: Path) -> None:
    once = analyse_fleet(mixed, duckdb_engine)
    assert analyse_fleet(mixed, engine_of(10_000)) == once
    assert analyse_fleet(mixed, engine_of(1_000), sample=2) == analyse_fleet(mixed, duckdb_engine, sample=2)


def test_moved_guest_counts_on_last_host(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    store.write(guest("old", "x", [7, 8], uuid="u"))
    store.write(guest("new", "x", [7], uuid="u", at=WHEN + 60))
    store.write(guest("old", "y", [7]))
    found = analyse_fleet(tmp_path, duckdb_engine)
    assert [(host.name, host.guests) for host in found.hosts] == [("new", 1), ("old", 1)]
    assert found.distinct_pages == 1


def test_one_host_has_no_pairs(tmp_path: Path) -> None:
    TraceStore(tmp_path).write(guest("only", "x", [7, 7, 8]))
    found = analyse_fleet(tmp_path, duckdb_engine)
    assert (found.pairs, found.common_contents, found.distinct_pages, found.duplicate_pages) == ((), (), 2, 1)


def test_guest_without_contents_is_counted(tmp_path: Path) -> None:
    TraceStore(tmp_path).write(guest("only", "x", [0, 0, 2]))
    found = analyse_fleet(tmp_path, duckdb_engine, sample=4)
    assert (found.hosts[0].guests, found.hosts[0].memory_pages, found.distinct_pages) == (1, 3, 0)
    assert found.distinct_error is None


@pytest.mark.parametrize(
    "change",
    [
        "CASE WHEN hash = 8 THEN 9 ELSE hash END AS hash",
        "CAST(pages + 1 AS INTEGER) AS pages",
        "'b' AS domain",
        "scanned_at + INTERVAL 1 MICROSECOND AS scanned_at",
    ],
)
def test_altered_rows_name_the_file(tmp_path: Path, change: str) -> None:
    store = TraceStore(tmp_path)
    store.write(guest("kvm-1", "x", [7, 8]))
    path = store.write(guest("kvm-2", "x", [7, 8]))
    rewrite(path, change)
    with pytest.raises(TraceError, match="has rows that do not match its checksums") as caught:
        analyse_fleet(tmp_path, duckdb_engine)
    assert str(path) in str(caught.value)


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    store.write(guest("kvm-1", "x", [7, 8]))
    path = store.write(guest("kvm-2", "x", list(range(7, 4000))))
    damaged = bytearray(path.read_bytes())
    damaged[40:400] = bytes(360)
    path.write_bytes(damaged)
    with pytest.raises(TraceError) as caught:
        analyse_fleet(tmp_path, duckdb_engine)
    assert str(path) in str(caught.value)


class Broken(DuckDbEngine):
    """An engine with a failure that files do not cause."""

    def rows(self, query: str) -> list[tuple[object, ...]]:
        return super().rows(f"SELECT 1 / nothing FROM ({query})")  # noqa: S608 - a test's own words


def test_engine_failure_names_the_engine(tmp_path: Path) -> None:
    TraceStore(tmp_path).write(guest("kvm-1", "x", [7, 8]))

    @contextlib.contextmanager
    def opened() -> Iterator[Engine]:
        with database() as connection:
            yield Broken(connection)

    with pytest.raises(SamepagedError, match=r"the query engine failed: .*nothing") as caught:
        analyse_fleet(tmp_path, opened)
    assert not isinstance(caught.value, TraceError)


@pytest.mark.parametrize("sample", [3, 0, 1 << 17])
def test_invalid_sample_is_an_error(tmp_path: Path, sample: int) -> None:
    TraceStore(tmp_path).write(guest("kvm-1", "x", [7, 8]))
    with pytest.raises(UsageError, match="power of two"):
        analyse_fleet(tmp_path, duckdb_engine, sample=sample)


def test_hashes_of_32_bits_are_not_sampled(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    for host in "ab":
        store.write(guest(host, "x", [7, 2**31 + 5], hash_bits=32))
    assert shared(analyse_fleet(tmp_path, duckdb_engine)) == {("a", "b"): 2}
    with pytest.raises(UsageError, match="32 bits"):
        analyse_fleet(tmp_path, duckdb_engine, sample=2)


def test_ambiguous_guests_are_refused(tmp_path: Path) -> None:
    for number, uuid in enumerate(("u", "v")):
        parquet.write(tmp_path / f"{number}.parquet", [guest("a", "x", [7 + number], uuid=uuid)])
    with pytest.raises(TraceError, match=r"has a trace that is also in"):
        analyse_fleet(tmp_path, duckdb_engine)
