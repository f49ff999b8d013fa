"""Traces on disk: what was written is read, and nothing that is damaged gives a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.errors import TraceError
from samepaged.sharing import ABSENT, FIRST_HASH, SWAPPED, ZERO, Contents, PageDigest
from samepaged.traces import Store, Trace, seed_id

if TYPE_CHECKING:
    from pathlib import Path

WHEN = 1_700_000_000.25
values = st.sampled_from([ABSENT, SWAPPED, ZERO]) | st.integers(FIRST_HASH, 2**64 - 1) | st.integers(FIRST_HASH, 9)
digests = st.lists(values, max_size=60).map(lambda pages: PageDigest(np.array(pages, dtype=np.uint64), 4096))


def trace(digest: PageDigest, *, host: str = "kvm-1", domain: str = "web-1", at: float = WHEN) -> Trace:
    return Trace.of(digest, host=host, domain=domain, scanned_at=at, seed=seed_id(7), mode="snapshot")


def same(one: Trace, other: Trace) -> bool:
    fields = (
        "host",
        "domain",
        "scanned_at",
        "absent_pages",
        "swapped_pages",
        "zero_pages",
        "page_size",
        "seed",
        "mode",
    )
    return (
        all(getattr(one, name) == getattr(other, name) for name in fields)
        and one.hashes.tolist() == other.hashes.tolist()
        and one.pages.tolist() == other.pages.tolist()
    )


@given(digests)
def test_a_trace_counts_as_the_model_does(digest: PageDigest) -> None:
    found, model = trace(digest), Contents.of(digest)
    assert found.hashes.tolist() == model.distinct.tolist()
    assert (found.pages > 1).tolist() == model.repeated.tolist()
    assert found.memory_pages == model.memory_pages
    assert (found.absent_pages, found.swapped_pages, found.zero_pages) == (
        model.absent_pages,
        model.swapped_pages,
        model.zero_pages,
    )
    assert int(found.pages.sum()) - len(found.hashes) == model.duplicate_pages


@settings(max_examples=40)
@given(digests, st.text(max_size=20), st.text(max_size=300))
def test_what_was_written_is_read_whatever_hosts_and_guests_are_called(
    tmp_path_factory: pytest.TempPathFactory, digest: PageDigest, host: str, domain: str
) -> None:
    store = Store(tmp_path_factory.mktemp("traces"))
    written = trace(digest, host=host, domain=domain)
    path = store.write(written)
    assert list(store.files()) == [path]
    assert path.is_relative_to(store.root)
    assert same(store.read(path), written)


def test_a_file_says_what_it_is_without_its_rows_being_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.write(trace(PageDigest(np.array([ABSENT, ZERO, ZERO, 9, 9, 2**64 - 1], dtype=np.uint64), 4096)))
    found = store.look(path)
    assert (found.host, found.domain, found.scanned_at, found.rows) == ("kvm-1", "web-1", WHEN, 2)
    assert (found.absent_pages, found.swapped_pages, found.zero_pages) == (1, 0, 2)
    assert path.parent.relative_to(tmp_path).parts == ("host=kvm-1", "date=2023-11-14")


def test_another_program_reads_the_rows_as_the_schema_says(tmp_path: Path) -> None:
    path = Store(tmp_path).write(trace(PageDigest(np.array([9, 2**64 - 1, 9, 2**63], dtype=np.uint64), 4096)))
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT host, domain, epoch_us(scanned_at), hash, pages FROM read_parquet(?, hive_partitioning = false)",
            [str(path)],
        ).fetchall()
    when = round(WHEN * 1e6)
    assert rows == [("kvm-1", "web-1", when, hash_, pages) for hash_, pages in ((-(2**63), 1), (-1, 1), (9, 2))]


def test_a_trace_takes_at_most_a_tenth_more_than_its_hashes(tmp_path: Path) -> None:
    hashes = np.random.default_rng(1).integers(FIRST_HASH, 2**64 - 1, 200_000, dtype=np.uint64)
    pages = np.concatenate([hashes, hashes[:20_000]])
    path = Store(tmp_path).write(trace(PageDigest(pages, 4096)))
    assert path.stat().st_size <= 1.1 * 8 * len(hashes)


@given(st.data())
@settings(max_examples=60)
def test_a_damaged_file_is_an_error_that_names_it_and_never_a_wrong_number(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = Store(tmp_path_factory.mktemp("traces"))
    digest = PageDigest(np.random.default_rng(2).integers(0, 2**64 - 1, 3000, dtype=np.uint64), 4096)
    written = trace(digest)
    path = store.write(written)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="cut"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = store.read(path)
    except TraceError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
    else:
        assert same(found, written)


def test_what_is_no_trace_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT 1 AS hash) TO '{other}' (FORMAT parquet)")
    for path in (other, tmp_path / "missing.parquet"):
        with pytest.raises(TraceError, match=r"parquet: .*; ") as caught:
            Store(tmp_path).look(path)
        assert str(path) in str(caught.value)


def test_a_directory_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TraceError, match="let samepaged write there"):
        Store(tmp_path / "file").write(trace(PageDigest(np.array([9], dtype=np.uint64), 4096)))


def test_the_seed_s_id_tells_seeds_apart_and_does_not_show_them() -> None:
    assert seed_id(7) == seed_id(7) != seed_id(8)
    assert f"{0x5EED0FADAE5C0DE5:x}" not in seed_id(0x5EED0FADAE5C0DE5)


DAY = 86_400.0


def test_what_is_old_is_pruned_and_then_the_oldest_until_the_rest_fits(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = PageDigest(np.arange(FIRST_HASH, 500, dtype=np.uint64), 4096)
    paths = [store.write(trace(digest, at=WHEN + number * DAY)) for number in range(6)]
    size = paths[0].stat().st_size
    now = WHEN + 5 * DAY
    assert store.prune(now) == []
    assert store.prune(now, age=3.5 * DAY) == paths[:2]
    assert store.prune(now, most_bytes=2 * size + 10) == paths[2:4]
    assert list(store.files()) == paths[4:]
    assert not paths[0].parent.exists()
    assert store.prune(now, most_bytes=0) == paths[4:]
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_trace_is_pruned_in_its_turn(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = PageDigest(np.array([9], dtype=np.uint64), 4096)
    path = store.write(trace(digest))
    path.write_bytes(b"")
    newer = store.write(trace(digest, at=WHEN + DAY))
    assert store.prune(WHEN + DAY, age=DAY / 2) == [path]
    assert list(store.files()) == [newer]
