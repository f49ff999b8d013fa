"""Owners beside traces: round trip, refusal of invalid files, and deletion together with their trace."""

from __future__ import annotations

import copy
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samepaged.attribution.document import attribution_document
from samepaged.attribution.page_owners import KINDS
from samepaged.attribution.report import AttributionReport, CopiedPage, Owner
from samepaged.cli import main
from samepaged.errors import TraceError
from samepaged.traces import TraceStore, attribution_file, survey
from samepaged.traces.attribution_file import (
    MAX_COUNT,
    MAX_FILE_BYTES,
    MAX_OWNERS,
    attribution_path,
    read,
    read_beside_traces,
    write,
)
from samepaged.traces.parquet import write as write_file
from tests.support.damage import damaged
from tests.support.traces import WHEN, trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAY = 86_400.0
HOSTILE = "\x1b[2J\u202e</script>\n'\""

pages = st.integers(0, 200)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def told(draw: st.DrawFn) -> AttributionReport:
    """Generate possible attributions of a guest of a few hundred pages."""
    own, inter = draw(pages), draw(pages)
    memory = own + inter + draw(pages)

    def listed(names: st.SearchStrategy[str]) -> tuple[Owner, ...]:
        found = []
        for name in draw(st.lists(names, max_size=4, unique=True)):
            involved = draw(st.integers(0, own)), draw(st.integers(0, inter))
            split = draw(st.floats(0, sum(involved)))
            found.append(Owner(name, draw(st.integers(0, memory)), *involved, split))
        return tuple(found)

    copied = st.builds(
        CopiedPage,
        st.integers(0, memory),
        st.booleans(),
        st.lists(words, max_size=3).map(tuple),
        st.integers(0, 5),
    )
    names = draw(st.booleans())
    return AttributionReport(
        domain=draw(words),
        kernel=draw(st.none() | words),
        memory_pages=memory,
        in_use_pages=draw(st.integers(0, memory)),
        labelled_ratio=draw(st.floats(0, 1)),
        self_sharing_pages=own,
        inter_sharing_pages=inter,
        kinds=listed(st.sampled_from(KINDS)),
        processes=listed(words) if names else None,
        files=listed(words) if names else None,
        most_copied=tuple(draw(st.lists(copied, max_size=3))),
        missing_pages=draw(pages),
        note=draw(st.none() | words),
    )


ANSWERS = AttributionReport(
    domain="web-1",
    kernel="6.1.0",
    memory_pages=100,
    in_use_pages=80,
    labelled_ratio=0.975,
    self_sharing_pages=20,
    inter_sharing_pages=10,
    kinds=(Owner("heap", 40, 15, 5, 18.5), Owner("library", 30, 5, 10, 11.5)),
    processes=(Owner(HOSTILE, 40, 15, 5, 18.5),),
    files=(Owner("/usr/lib/libc.so.6", 30, 5, 10, 11.5),),
    most_copied=(CopiedPage(7, shared_with_others=True, owners=("[heap]: mysqld",)),),
)


def document(answers: AttributionReport = ANSWERS, host: str = "kvm-1", at: float = WHEN) -> dict[str, Any]:
    return {**attribution_document(answers), "host": host, "scanned_at": at}


def write_trace(store: TraceStore, domain: str = "web-1", *, host: str = "kvm-1", at: float = WHEN) -> Path:
    return store.write(trace([9, 9, 10], host=host, domain=domain, at=at))


def signed(told: dict[str, Any]) -> bytes:
    """Return a file that another program could write: a valid checksum over any content."""
    return json.dumps({**told, "sum": attribution_file._sum(told)}).encode()


@given(told())
def test_written_attribution_is_read(tmp_path_factory: pytest.TempPathFactory, answers: AttributionReport) -> None:
    path = write(tmp_path_factory.mktemp("x") / "a.parquet", document(answers))
    assert read(path) == answers


@settings(max_examples=200)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255) | st.none())
@example(0.5, 0)
def test_damaged_file_is_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, place: float, damage: int | None
) -> None:
    path = write(tmp_path_factory.mktemp("x") / "a.parquet", document())
    path.write_bytes(damaged(path.read_bytes(), place, damage))
    try:
        found = read(path)
    except TraceError as error:
        assert damage != 0
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
    else:
        assert found == ANSWERS


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def places(told: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Yield the paths of all values in a document."""
    parts = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    return [at, *(place for key, value in parts for place in places(value, (*at, key)))]


def typed(answers: AttributionReport) -> None:
    """Check the properties that users of an attribution rely on."""
    for one in (*answers.kinds, *(answers.processes or ()), *(answers.files or ())):
        assert type(one.name) is str
        assert all(
            type(count) is int and 0 <= count <= answers.memory_pages < MAX_COUNT
            for count in (one.pages, one.self_sharing_pages, one.inter_sharing_pages)
        )
        assert type(one.split_pages) is float
        assert 0 <= one.split_pages <= answers.memory_pages + 1
    assert 0 <= answers.labelled_ratio <= 1
    assert answers.sharing_pages <= answers.memory_pages
    json.dumps(attribution_document(answers), allow_nan=False, ensure_ascii=False).encode()


@settings(max_examples=300)
@given(st.data())
def test_foreign_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    told = copy.deepcopy(document())
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(told)[1:]))
        inner = told
        for key in way:
            inner = inner[key]
        if data.draw(st.integers(0, 3)):
            inner[last] = data.draw(anything)
        else:
            del inner[last]
    path = tmp_path_factory.mktemp("x") / "a.sources.json"
    path.write_bytes(signed(told))
    try:
        typed(read(path))
    except TraceError as error:
        assert json.dumps(told) != json.dumps(document())  # in Python, False equals 0
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)


FORGED: dict[str, list[Any]] = {
    "schema": [2, None],
    "page_size": [8192, "4096"],
    "domain": [None, "x" * 4097, "\ud800"],
    "memory_pages": [99.0, True, -1, 2**48, 79],
    "labelled_ratio": [1.1, -0.1, "1"],
    "self_sharing_pages": [100, 14],
    "kinds": [None, {}, [None], [{"kind": "heap"}]],
    "processes": [[["sshd", 1, 1, 1, 1]]],
    "most_copied": [None, [{"copies": 101, "others": True, "owners": [], "more_owners": 0}]],
    "scanned_at": [None, -1, 10**12],
    "host": [7],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in FORGED.items() for value in values])
def test_impossible_values_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "a.sources.json"
    path.write_bytes(signed({**document(), key: value}))
    with pytest.raises(TraceError, match=r"inconsistent owners|another samepaged"):
        read(path)


def test_unknown_keys_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.sources.json"
    told = document()
    told["kinds"][0]["more"] = [1]
    path.write_bytes(signed({**told, "more": {"x": None}}))
    assert read(path) == ANSWERS


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"1", b"[" * 100_000, b'{"sum": NaN}', b"\xff\xfe", b'{"memory_pages": ' + b"9" * 5000 + b"}"],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.sources.json"
    path.write_bytes(content)
    with pytest.raises(TraceError, match="does not match its checksum; remove it"):
        read(path)


def test_endless_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.sources.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TraceError, match="has more than 16777216 bytes"):
        read(path)


def test_fifo_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "a.sources.json"
    os.mkfifo(path)
    with pytest.raises(TraceError, match="is not a regular file"):
        read(path)


def test_many_long_names_are_bounded(tmp_path: Path) -> None:
    many = tuple(Owner(f"{number:05}" + "\x01" * 4000, 1, 0, 0, 0.0) for number in range(5000))
    longer = Owner("/" * 5000, 1, 1, 1, 1.0)
    line = "[heap]: " + " ".join(["x" * 15] * 1000)
    answers = AttributionReport(
        **{name: getattr(ANSWERS, name) for name in ("domain", "kernel", "memory_pages", "in_use_pages")},
        labelled_ratio=1,
        self_sharing_pages=20,
        inter_sharing_pages=10,
        kinds=ANSWERS.kinds,
        processes=(Owner("sshd", 1, 1, 1, 1.0),),
        files=(longer, *many),
        most_copied=(CopiedPage(2, shared_with_others=False, owners=(line,)),),
        note="x" * 10_000,
    )
    path = write(tmp_path / "a.parquet", document(answers))
    assert path.stat().st_size <= MAX_FILE_BYTES + 1
    found = read(path)
    assert found.files is not None
    assert 100 < len(found.files) <= MAX_OWNERS
    assert found.files == many[: len(found.files)]
    assert found.kinds == ANSWERS.kinds
    assert found.most_copied[0].owners == (line[:4096],)


def test_unreadable_content_is_not_written(tmp_path: Path) -> None:
    told = document()
    told["kinds"][0]["pages"] = 101
    with pytest.raises(TraceError, match="has inconsistent owners"):
        write(tmp_path / "a.parquet", told)
    assert list(tmp_path.iterdir()) == []


def test_write_is_atomic_and_group_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", document())
    assert (path.name, path.stat().st_mode & 0o777) == ("a.sources.json", 0o640)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TraceError, match=r"a.sources.json: cannot be written .*No space left"):
        write(tmp_path / "a.parquet", document(at=WHEN + 1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# Beside traces.


def test_attribution_is_found_beside_traces(tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    first, _, last = (write_trace(store, at=WHEN + number) for number in range(3))
    for path, at in ((first, WHEN), (last, WHEN + 2)):
        write(path, document(at=at))
    found = list(read_beside_traces(survey(tmp_path)))
    assert [file.path for file, _ in found] == [str(first), str(last)]
    assert [answers for _, answers in found] == [ANSWERS, ANSWERS]


def test_file_of_several_traces_has_no_attribution(tmp_path: Path) -> None:
    write_file(tmp_path / "all.parquet", [trace([9, 9, 10], at=WHEN + at) for at in (0, 1)])
    write(tmp_path / "all.parquet", document())
    assert list(read_beside_traces(survey(tmp_path))) == []


@pytest.mark.parametrize("other", [{"host": "kvm-2"}, {"at": WHEN + 1}, {"answers": "web-2"}])
def test_attribution_of_another_trace_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    path = write_trace(TraceStore(tmp_path))
    told = document(**{key: value for key, value in other.items() if key != "answers"})
    write(path, told | {"domain": other.get("answers", "web-1")})
    with pytest.raises(
        TraceError, match=r"sources.json: belongs to another trace than .*parquet; move it beside its trace"
    ):
        list(read_beside_traces(survey(tmp_path)))


@pytest.fixture
def store(tmp_path: Path) -> TraceStore:
    """Create traces of five days with owners, and one of another host."""
    store = TraceStore(tmp_path)
    for number in range(5):
        write(write_trace(store, at=WHEN + number * DAY), document(at=WHEN + number * DAY))
    write(write_trace(store, host="kvm-2"), document(host="kvm-2"))
    return store


def left(store: TraceStore) -> tuple[int, int]:
    """Return the number of remaining traces and of remaining owners."""
    return len(list(store.root.rglob("*.parquet"))), len(list(store.root.rglob("*.sources.json")))


def test_attribution_is_pruned_with_its_trace(store: TraceStore) -> None:
    paths = list(store.files("kvm-1"))
    assert all(path.suffix == ".parquet" for path in paths)
    size = sum(path.stat().st_size + attribution_path(path).stat().st_size for path in paths)
    assert store.size("kvm-1") == size
    assert store.prune(WHEN + 4 * DAY, max_age=3.5 * DAY, host="kvm-1") == paths[:1]
    assert left(store) == (5, 5)
    one = paths[-1].stat().st_size + attribution_path(paths[-1]).stat().st_size
    assert store.prune(WHEN + 4 * DAY, max_bytes=2 * one + 20, host="kvm-1") == paths[1:3]
    assert left(store) == (3, 3)
    assert not paths[0].parent.exists() or list(store.files("kvm-2"))
    store.prune(WHEN + 4 * DAY, max_bytes=0)
    assert list(store.root.iterdir()) == []


def test_undeletable_attribution_keeps_its_trace(store: TraceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = list(store.files("kvm-1"))
    unlink: Callable[..., None] = type(paths[0]).unlink

    def refusing(path: Path, *, missing_ok: bool = False) -> None:
        if path == attribution_path(paths[0]):
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(type(paths[0]), "unlink", refusing)
    with pytest.raises(TraceError, match="cannot be removed"):
        store.prune(WHEN + 9 * DAY, max_age=1.0, host="kvm-1")
    assert left(store) == (2, 2)
    assert paths[0].exists()


def test_orphaned_attribution_is_pruned_per_host(store: TraceStore) -> None:
    paths = [next(store.files("kvm-1")), *store.files("kvm-2")]
    for path in paths:
        path.unlink()
    theirs = paths[0].with_name("notes.sources.json")
    theirs.write_text("{}")
    now = attribution_path(paths[0]).stat().st_mtime
    store.prune(now, host="kvm-1")
    assert attribution_path(paths[0]).exists()  # its trace may follow if traces are being copied
    store.prune(now + 3601, host="kvm-1")
    assert [attribution_path(path).exists() for path in paths] == [False, True]
    assert theirs.exists()


def test_leftovers_of_killed_writer_are_removed(store: TraceStore) -> None:
    path = attribution_path(next(store.files()))
    half = path.with_name(f".{path.name}.123")
    half.write_bytes(b"half")
    store.prune(half.stat().st_mtime + 3601)
    assert not half.exists()
    assert left(store) == (6, 6)


def test_verify_checks_attribution(store: TraceStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["traces", "verify", str(store.root)]) == 0
    assert capsys.readouterr().out == "6 traces are intact, 6 of them with owners\n"
    path = attribution_path(next(store.files()))
    path.write_bytes(path.read_bytes().replace(b"heap", b"heat", 1))
    assert main(["traces", "verify", str(store.root)]) == 1
    shown = capsys.readouterr()
    assert shown.err == f"samepaged: {path}: does not match its checksum; remove it, or restore it from a copy\n"
    assert shown.out == "6 traces are intact, 5 of them with owners\n"


def test_export_has_no_names(store: TraceStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into = tmp_path / "elsewhere" / "all.parquet"
    into.parent.mkdir()
    assert main(["traces", "export", "--into", str(into), str(store.root)]) == 0
    assert "6 traces" in capsys.readouterr().out
    assert list(into.parent.iterdir()) == [into]
    assert b"libc.so.6" not in into.read_bytes()
