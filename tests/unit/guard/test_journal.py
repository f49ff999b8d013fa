from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.errors import GuestError, Reason
from samepaged.guard.journal import Entry, FileName, Journal, JournalError, OpenEntry, open_entries
from samepaged.procfs import boot_id, start_time

ENTRY = Entry("qemu:///system", "3f0c1e0a-0000-0000-0000-000000000000", 7, "web-1", boot_id())
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def of_a_dead_process(directory: Path, content: bytes) -> Path:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    path = directory / f"suspended-{int(ended.stdout)}-1"
    path.write_bytes(content)
    return path


@given(st.builds(Entry, TEXTS, st.uuids().map(str), st.integers(1, 2**31 - 1), TEXTS, TEXTS))
def test_entry_round_trips(entry: Entry) -> None:
    assert Entry.parse(entry.line()) == entry


@given(
    st.binary()
    | st.recursive(st.none() | st.integers() | TEXTS, st.lists).map(lambda v: json.dumps(v).encode() + b"\n")
)
def test_invalid_entry_is_refused(content: bytes) -> None:
    with pytest.raises(JournalError):
        Entry.parse(content)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"id": "7"}, {"id": True}, {"id": 0}, {"id": -1}, {"id": 2**31}, {"name": 7}, {"more": 1}),
        *({"uuid": ""}, {"uuid": "web-1"}, {"uuid": ENTRY.uuid + "\n"}, {"uri": "a\0b"}, {"name": "\ud800"}),
    ],
)
def test_entry_with_wrong_types_is_refused(wrong: dict[str, object]) -> None:
    content = json.loads(ENTRY.line()) | wrong
    with pytest.raises(JournalError):
        Entry.parse(json.dumps(content).encode() + b"\n")


def test_entry_is_on_disk_until_cleared(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert not journal.path.exists()
    journal.write(ENTRY)
    assert Entry.parse(journal.path.read_bytes()) == ENTRY
    assert journal.path.stat().st_mode & 0o777 == 0o600
    journal.clear()
    assert journal.path.read_bytes() == b""
    journal.close()
    assert not journal.path.exists()


def test_entry_survives_directory_cleanup(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(ENTRY)
    journal.path.unlink()
    journal.write(ENTRY)
    assert Entry.parse(journal.path.read_bytes()) == ENTRY
    journal.close()


def test_an_entry_left_open_outlives_later_entries(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    paths = []
    for name in ("web-1", "web-2"):
        journal.write(replace(ENTRY, name=name))
        path = journal.leave_open()
        assert path is not None
        paths.append(path)
    journal.write(replace(ENTRY, name="web-3"))
    journal.clear()
    journal.close()
    assert [Entry.parse(path.read_bytes()).name for path in paths] == ["web-1", "web-2"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert [FileName.parse(path.name).number for path in paths] == ["1", "2"]


def test_a_second_journal_of_a_process_overwrites_no_open_entry(tmp_path: Path) -> None:
    for name in ("web-1", "web-2"):
        journal = Journal(tmp_path)
        journal.write(replace(ENTRY, name=name))
        journal.leave_open()
        journal.close()
    assert sorted(Entry.parse(path.read_bytes()).name for path in tmp_path.iterdir()) == ["web-1", "web-2"]


def test_a_second_journal_preserves_what_the_first_could_not_rename(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.path.write_bytes(ENTRY.line())
    second = Journal(tmp_path)
    second.write(replace(ENTRY, name="web-2"))
    assert Entry.parse(second.path.with_name(f"{second.path.name}-1").read_bytes()) == ENTRY
    second.close()


def test_an_open_entry_that_cannot_be_renamed_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    journal = Journal(tmp_path)
    journal.write(ENTRY)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        assert journal.leave_open() is None
        with pytest.raises(GuestError, match="Read-only"):
            journal.write(replace(ENTRY, name="web-2"))
        assert Entry.parse(journal.path.read_bytes()) == ENTRY
    journal.write(replace(ENTRY, name="web-2"))
    journal.close()
    (left,) = tmp_path.iterdir()
    assert Entry.parse(left.read_bytes()) == ENTRY


def test_unwritable_journal_prevents_suspension(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match=r"web-1.*runtime_directory") as caught:
        Journal(tmp_path / "missing").write(ENTRY)
    assert caught.value.reason is Reason.NO_JOURNAL


def entries(directory: Path) -> dict[Path, Entry]:
    found = list(open_entries(directory))
    assert all(isinstance(one, OpenEntry) for one in found)
    return {one.path: one.entry for one in found if isinstance(one, OpenEntry)}


def test_only_orphaned_entries_are_found(tmp_path: Path) -> None:
    living = tmp_path / f"suspended-{os.getpid()}-{start_time(os.getpid())}"
    living.write_bytes(ENTRY.line())
    assert list(open_entries(tmp_path)) == []
    path = of_a_dead_process(tmp_path, ENTRY.line())
    assert entries(tmp_path) == {path: ENTRY}


def test_zombie_process_counts_as_dead(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        path = tmp_path / f"suspended-{process.pid}-{start_time(process.pid)}"
        path.write_bytes(ENTRY.line())
        assert list(open_entries(tmp_path)) == []
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert entries(tmp_path) == {path: ENTRY}


@pytest.mark.parametrize(
    "content", [b"", ENTRY.line()[:-10], ENTRY.line().replace(boot_id().encode(), b"another boot")]
)
def test_stale_and_torn_entries_are_ignored(content: bytes, tmp_path: Path) -> None:
    path = of_a_dead_process(tmp_path, content)
    assert entries(tmp_path) == {}
    assert path.exists()
    assert list(open_entries(tmp_path, remove_closed=True)) == []
    assert not path.exists()


def test_invalid_file_is_reported_and_kept(tmp_path: Path) -> None:
    path = of_a_dead_process(tmp_path, b"[1, 2]\n")
    (found,) = open_entries(tmp_path, remove_closed=True)
    assert isinstance(found, JournalError)
    assert str(path) in str(found)
    assert path.exists()
