"""Traces on disk: round trip, and refusal of damaged files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samepaged.errors import TraceError
from samepaged.sharing import ABSENT, FIRST_HASH, SWAPPED, ZERO, Contents, PageDigest
from samepaged.traces import (
    PageSizeCounts,
    Trace,
    TraceInfo,
    TraceStore,
    newest_traces,
    read,
    read_hashes,
    sample_threshold,
    seed_id,
    survey,
)
from samepaged.traces.metadata import PRIME, _sum, format_metadata, parse_metadata
from samepaged.traces.parquet import read_metadata, write
from tests.support.damage import damaged
from tests.support.traces import WHEN, trace

values = st.sampled_from([ABSENT, SWAPPED, ZERO]) | st.integers(FIRST_HASH, 2**64 - 1) | st.integers(FIRST_HASH, 9)
digests = st.lists(values, max_size=60).map(lambda pages: PageDigest(np.array(pages, dtype=np.uint64), 4096))


def digest_of(*pages: int, page_size: int = 4096) -> PageDigest:
    return PageDigest(np.array(pages, dtype=np.uint64), page_size)


def same(one: Trace, other: Trace) -> bool:
    return (
        (one.info, one.sample) == (other.info, other.sample)
        and one.hashes.tolist() == other.hashes.tolist()
        and one.pages.tolist() == other.pages.tolist()
    )


@given(digests)
def test_trace_counts_equal_the_model(digest: PageDigest) -> None:
    found, model = trace(digest), Contents.of(digest)
    assert found.hashes.tolist() == model.distinct.tolist()
    assert (found.pages > 1).tolist() == model.is_repeated.tolist()
    about = found.info
    assert about.memory_pages == model.memory_pages
    assert (about.absent_pages, about.swapped_pages) == (model.absent_pages, model.swapped_pages)
    assert (about.zero_pages, about.distinct_pages) == (model.zero_pages, model.distinct_pages)
    assert int(found.pages.sum()) - len(found.hashes) == model.duplicate_pages == about.duplicate_pages


@settings(max_examples=40)
@given(digests, st.text(max_size=20), st.text(max_size=300))
def test_trace_round_trips_with_any_names(
    tmp_path_factory: pytest.TempPathFactory, digest: PageDigest, host: str, domain: str
) -> None:
    store = TraceStore(tmp_path_factory.mktemp("traces"))
    written = trace(digest, host=host, domain=domain)
    path = store.write(written)
    assert list(store.files()) == [path]
    assert path.is_relative_to(store.root)
    (found,) = read(path)
    assert same(found, written)
    (file,) = read_metadata([str(path)])
    assert read_hashes(file).tolist() == written.hashes.tolist()


def test_metadata_needs_no_rows(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    path = store.write(trace(PageDigest(np.array([ABSENT, ZERO, ZERO, 9, 9, 2**64 - 1], dtype=np.uint64), 4096)))
    (found,) = read_metadata([str(path)])
    (about,) = found.traces
    assert (about.host, about.domain, about.scanned_at, found.rows) == ("kvm-1", "web-1", WHEN, 2)
    assert (about.absent_pages, about.swapped_pages, about.zero_pages) == (1, 0, 2)
    assert (found.size, found.sample) == (path.stat().st_size, 1)
    assert path.parent.relative_to(tmp_path).parts == ("host=kvm-1", "date=2023-11-14")


def test_rows_match_the_documented_schema(tmp_path: Path) -> None:
    path = TraceStore(tmp_path).write(trace(PageDigest(np.array([9, 2**64 - 1, 9, 2**63], dtype=np.uint64), 4096)))
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT host, domain, epoch_us(scanned_at), hash, pages FROM read_parquet(?, hive_partitioning = false)",
            [str(path)],
        ).fetchall()
    when = round(WHEN * 1e6)
    assert rows == [("kvm-1", "web-1", when, hash_, pages) for hash_, pages in ((-(2**63), 1), (-1, 1), (9, 2))]


def test_trace_size_is_near_hash_size(tmp_path: Path) -> None:
    hashes = np.random.default_rng(1).integers(FIRST_HASH, 2**64 - 1, 200_000, dtype=np.uint64)
    pages = np.concatenate([hashes, hashes[:20_000]])
    path = TraceStore(tmp_path).write(trace(PageDigest(pages, 4096)))
    assert path.stat().st_size <= 1.1 * 8 * len(hashes)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255) | st.none())
@example(0.5, 0)
@settings(max_examples=60)
def test_damaged_file_is_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, place: float, damage: int | None
) -> None:
    store = TraceStore(tmp_path_factory.mktemp("traces"))
    digest = PageDigest(np.random.default_rng(2).integers(0, 2**64 - 1, 3000, dtype=np.uint64), 4096)
    written = trace(digest)
    path = store.write(written)
    path.write_bytes(damaged(path.read_bytes(), place, damage))
    try:
        (found,) = read(path)
        hashes = read_hashes(read_metadata([str(path)])[0])
    except TraceError as error:
        assert damage != 0
        assert str(path) in str(error)
        assert "\n" not in str(error)
    else:
        assert same(found, written)
        assert hashes.tolist() == written.hashes.tolist()


def test_non_trace_is_an_error_with_remedy(tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT 1 AS hash) TO '{other}' (FORMAT parquet)")
    with pytest.raises(TraceError, match=r"parquet: .*; ") as caught:
        read_metadata([str(other)])
    assert str(other) in str(caught.value)


def test_unwritable_directory_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TraceError, match="give samepaged write permission"):
        TraceStore(tmp_path / "file").write(trace(PageDigest(np.array([9], dtype=np.uint64), 4096)))


def test_seed_id_hides_the_seed() -> None:
    assert seed_id(7) == seed_id(7) != seed_id(8)
    assert f"{0x5EED0FADAE5C0DE5:x}" not in seed_id(0x5EED0FADAE5C0DE5)


DAY = 86_400.0


def test_prune_by_age_then_size(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    digest = PageDigest(np.arange(FIRST_HASH, 500, dtype=np.uint64), 4096)
    paths = [store.write(trace(digest, at=WHEN + number * DAY)) for number in range(6)]
    size = paths[0].stat().st_size
    now = WHEN + 5 * DAY
    assert store.prune(now) == []
    assert store.prune(now, max_age=3.5 * DAY) == paths[:2]
    assert store.prune(now, max_bytes=2 * size + 10) == paths[2:4]
    assert list(store.files()) == paths[4:]
    assert not paths[0].parent.exists()
    assert store.prune(now, max_bytes=0) == paths[4:]
    assert list(tmp_path.iterdir()) == []


def test_damaged_trace_is_pruned(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    digest = PageDigest(np.array([9], dtype=np.uint64), 4096)
    path = store.write(trace(digest))
    path.write_bytes(b"")
    newer = store.write(trace(digest, at=WHEN + DAY))
    assert store.prune(WHEN + DAY, max_age=DAY / 2) == [path]
    assert list(store.files()) == [newer]


def test_guest_names_make_no_hidden_files(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    paths = [store.write(trace(digest_of(9), domain=name)) for name in ("_a", "%5Fa", ".a", "a")]
    assert len(set(paths)) == 4
    assert [path.name for path in paths if path.name.startswith(("_", "."))] == []
    assert len(survey(tmp_path)) == 4


def test_trace_is_not_overwritten(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    path = store.write(trace(digest_of(9, 9)))
    with pytest.raises(TraceError, match="exists already; give the trace another time"):
        store.write(trace(digest_of(9, 10)))
    assert read(path)[0].pages.tolist() == [2]


def test_directory_name_is_not_a_pattern(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "a*[b]?")
    path = store.write(trace(digest_of(9)))
    TraceStore(tmp_path / "axbz").write(trace(digest_of(9, 9), domain="another"))
    assert [file.path for file in survey(store.root)] == [str(path)]
    assert len(read(path)[0].hashes) == 1


def test_page_size_counts_round_trip(tmp_path: Path) -> None:
    counts = (PageSizeCounts(2048, 4, 1, 2, 1), PageSizeCounts(8192, 1, 0, 1, 0))
    digest = digest_of(9, 9)
    written = trace(
        digest,
        host="h",
        domain="d",
        mode="precopy",
        uuid="u",
        by_page_size=counts,
        host_memory=2**40,
    )
    (found,) = read(TraceStore(tmp_path).write(written))
    assert found.info == written.info


@given(digests, st.integers(0, 16))
def test_sample_has_the_lowest_hashes(digest: PageDigest, halvings: int) -> None:
    whole = trace(digest)
    sample = whole.sampled(1 << halvings)
    assert sample.info == whole.info
    expected = [
        (value, pages)
        for value, pages in zip(whole.hashes.tolist(), whole.pages.tolist(), strict=True)
        if ((value + 2**63) % 2**64) << halvings < 2**64
    ]
    assert list(zip(sample.hashes.tolist(), sample.pages.tolist(), strict=True)) == expected


def test_sample_must_be_power_of_two() -> None:
    for sample in (0, 3, -2, 1 << 17):
        with pytest.raises(ValueError, match="power of two"):
            sample_threshold(sample)


def remainder(value: int) -> int:
    """Return the remainder as in C and SQL: with the sign of the dividend."""
    return value % PRIME if value >= 0 else -(-value % PRIME)


@settings(max_examples=25)
@given(st.lists(st.tuples(digests, st.text(max_size=5), st.text(max_size=5)), min_size=1, max_size=6), st.data())
def test_file_may_hold_many_traces(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[PageDigest, str, str]], data: st.DataObject
) -> None:
    sample = data.draw(st.sampled_from([1, 2, 64]))
    traces = [
        trace(digest, host=host, domain=domain, at=WHEN + number).sampled(sample)
        for number, (digest, host, domain) in enumerate(parts)
    ]
    path = tmp_path_factory.mktemp("traces") / "all.parquet"
    write(path, traces)
    assert all(same(one, other) for one, other in zip(read(path), traces, strict=True))
    (file,) = survey(path)
    assert file.rows == sum(len(one.hashes) for one in traces)
    for one, totals in zip(traces, file.totals, strict=True):
        for halvings, found in enumerate(totals):
            part = one.sampled(1 << halvings)
            if found is None:
                assert 1 << halvings < sample
            else:
                xor = int(np.bitwise_xor.reduce(part.hashes.view(np.int64), initial=0))
                remainders = sum(remainder(value) for value in part.hashes.view(np.int64).tolist())
                counted = (len(part.hashes), int(part.pages.sum()), xor, remainders)
                assert (found.rows, found.pages, found.xor, found.remainders) == counted


def test_incomparable_traces_are_refused(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    for number in range(3):
        store.write(trace(digest_of(9, 10), at=WHEN + number))
    assert len(survey(tmp_path)) == 3
    for odd, what in (
        (trace(digest_of(9), at=WHEN + 9, seed=8), "seed"),
        (trace(digest_of(9, page_size=2048), at=WHEN + 9), "page size 2048"),
    ):
        path = store.write(odd)
        with pytest.raises(TraceError, match=f"has {what}.* other traces have") as caught:
            survey(tmp_path)
        assert str(caught.value).startswith(str(path))
        path.unlink()
    write(tmp_path / "sample.parquet", [trace(digest_of(9), at=WHEN + 9).sampled(2)])
    with pytest.raises(TraceError, match=r"sample.parquet: has sample 2, other traces have 1"):
        survey(tmp_path)
    assert len(survey(tmp_path, mixed_samples=True)) == 4


def test_repeated_trace_is_an_error(tmp_path: Path) -> None:
    one = trace(digest_of(9))
    TraceStore(tmp_path).write(one)
    write(tmp_path / "export.parquet", [one])
    with pytest.raises(TraceError, match=r"has a trace that is also in .*; keep one"):
        survey(tmp_path)


def test_path_without_traces_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="contains no traces; record some"):
        survey(tmp_path)
    with pytest.raises(TraceError, match="does not exist"):
        survey(tmp_path / "nowhere")
    (tmp_path / "other.parquet").write_bytes(b"PAR1")
    with pytest.raises(TraceError, match=r"other.parquet: is not a Parquet file"):
        survey(tmp_path)


def test_pattern_selects_traces(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    for host in ("a", "b"):
        store.write(trace(digest_of(9), host=host))
    assert [file.traces[0].host for file in survey(f"{tmp_path}/host=b/*/*.parquet")] == ["b"]


def test_newest_trace_follows_the_guest(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    store.write(trace(digest_of(9), host="a", domain="web", uuid="1"))
    store.write(trace(digest_of(9), host="b", domain="web", uuid="1", at=WHEN + 60))
    store.write(trace(digest_of(9), host="a", domain="web", uuid="2", at=WHEN + 30))
    store.write(trace(digest_of(9), host="a", domain="imported"))
    store.write(trace(digest_of(9), host="b", domain="imported", at=WHEN + 30))
    found = [(about.host, about.domain, about.scanned_at - WHEN) for _, about in newest_traces(survey(tmp_path))]
    assert found == [("a", "imported", 0), ("a", "web", 30), ("b", "imported", 30), ("b", "web", 60)]


def test_redefined_guest_is_one_guest(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    store.write(trace(digest_of(9), host="a", domain="web", uuid="1"))
    store.write(trace(digest_of(9), host="a", domain="web", uuid="2", at=WHEN + 60))
    assert [about.uuid for _, about in newest_traces(survey(tmp_path))] == ["2"]


def test_swapped_guests_are_two(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    for at, (first, second) in enumerate([("1", "2"), ("2", "1")]):
        store.write(trace(digest_of(9), host="a", domain="web", uuid=first, at=WHEN + at))
        store.write(trace(digest_of(9), host="b", domain="web", uuid=second, at=WHEN + at))
    assert [(about.host, about.uuid) for _, about in newest_traces(survey(tmp_path))] == [("a", "2"), ("b", "1")]


def test_non_files_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.parquet")
    (tmp_path / "y.parquet").mkdir()
    path = TraceStore(tmp_path).write(trace(digest_of(9)))
    assert [file.path for file in survey(tmp_path)] == [str(path)]
    with pytest.raises(TraceError, match="is not a regular file; give"):
        survey(tmp_path / "x.parquet")


def test_foreign_files_are_not_pruned(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    path = store.write(trace(digest_of(9)))
    others = [path.with_name("part-00000.parquet"), path.with_name("notes.txt")]
    for other in others:
        other.write_bytes(b"theirs")
    elsewhere = store.write(trace(digest_of(9), host="kvm-2"))
    assert store.prune(WHEN + DAY, max_age=1.0, host="kvm-1") == [path]
    assert all(one.exists() for one in (*others, elsewhere))


def test_undeletable_file_does_not_stop_pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TraceStore(tmp_path)
    stuck, other = (store.write(trace(digest_of(9), at=WHEN + at)) for at in (0, 1))
    unlink = Path.unlink

    def refusing(path: Path, *, missing_ok: bool = False) -> None:
        if path == stuck:
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refusing)
    with pytest.raises(TraceError, match="cannot be removed"):
        store.prune(WHEN + DAY, max_age=1.0)
    assert not other.exists()


def test_vanished_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="has been deleted; run the command again"):
        read_metadata([str(tmp_path / "pruned.parquet")])


def test_error_names_are_escaped() -> None:
    assert str(TraceError("/x\x1b[2J", "is\nbad\x07", "mend it")) == "/x\\x1b[2J: is bad\\x07; mend it"


def test_leftovers_are_ignored_and_removed(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    path = store.write(trace(digest_of(9)))
    left = path.with_name(f".{path.name}.123")
    left.write_bytes(b"half")
    assert len(survey(tmp_path)) == 1
    now = left.stat().st_mtime
    store.prune(now)
    assert left.exists()
    store.prune(now + 3601)
    assert not left.exists()


def test_trace_file_is_private(tmp_path: Path) -> None:
    path = TraceStore(tmp_path / "traces").write(trace(digest_of(9)))
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "traces").stat().st_mode & 0o777 == 0o700


def test_trace_does_not_contain_the_seed(tmp_path: Path) -> None:
    seed = 0x5EED0FADAE5C0DE5
    path = TraceStore(tmp_path).write(trace(digest_of(9, 2**63), seed=seed))
    content = path.read_bytes()
    for form in (f"{seed:x}".encode(), f"{seed:X}".encode(), str(seed).encode(), seed.to_bytes(8, "little")):
        assert form not in content
        assert form[::-1] not in content
    with duckdb.connect() as connection:
        names = connection.execute("SELECT name FROM parquet_schema(?) WHERE type IS NOT NULL", [str(path)]).fetchall()
        ((told,),) = connection.execute("SELECT value FROM parquet_kv_metadata(?)", [str(path)]).fetchall()
    assert [name for (name,) in names] == ["host", "domain", "scanned_at", "hash", "pages"]
    metadata = json.loads(told)
    assert set(metadata) == {"format", "sample", "traces", "sum"}
    (about,) = metadata["traces"]
    assert set(about) == set(TraceInfo.__dataclass_fields__) | {"sums", "totals"}


FORGED: dict[str, list[object]] = {
    "sample": [3, "x", 1.5, -1, None],
    "traces": [None, [1], {}, []],
}
FORGED_OF_A_TRACE: dict[str, list[object]] = {
    "scanned_at": [float("nan"), float("inf"), 1e300, "x", -1.0],
    "host": [5, None],
    "uuid": [[]],
    "page_size": ["4k", 0, -4096],
    "hash_bits": [7],
    "hashed_pages": [10**30, 999, -1],
    "distinct_pages": [5],
    "zero_pages": [-5, 1.5, True],
    "totals": [None, [[1, 2, 3]], "x"],
    "sums": [[], None],
    "by_page_size": [[{"more": 1}], 5],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in (FORGED | FORGED_OF_A_TRACE).items() for value in values]
)
def test_impossible_metadata_names_the_file(key: str, value: object) -> None:
    one = trace(digest_of(9, 9, 10))
    told = json.loads(format_metadata([(one, one.hashes.view(np.int64), one.pages)], 1))
    (told if key in FORGED else told["traces"][0])[key] = value
    del told["sum"]
    told["sum"] = _sum(told)
    with pytest.raises(TraceError, match=r"^/x.parquet: has (inconsistent|invalid) metadata; "):
        parse_metadata("/x.parquet", 0, json.dumps(told).encode())


def test_bit_flips_change_the_totals(tmp_path: Path) -> None:
    one = trace(digest_of(*range(1000, 3000, 2)))
    flipped = trace(digest_of(*(value ^ (value % 4 == 0) for value in range(1000, 3000, 2))))
    (whole,), (damaged,) = (
        read_metadata([str(TraceStore(tmp_path / name).write(each))])[0].totals
        for name, each in (("a", one), ("b", flipped))
    )
    assert whole[0] is not None
    assert damaged[0] is not None
    assert (whole[0].rows, whole[0].pages, whole[0].xor) == (damaged[0].rows, damaged[0].pages, damaged[0].xor)
    assert whole[0] != damaged[0]
