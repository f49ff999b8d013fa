from __future__ import annotations

from dataclasses import replace

import pytest

from samepaged.scan.snapshot import SnapshotStore
from tests.support.results import full_snapshot, guest_id, snapshot


class Changes:
    """A listener that counts its calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def store(changes: Changes) -> SnapshotStore:
    store = SnapshotStore(full_snapshot())
    store.listen(changes)
    return store


def test_update_keeps_other_fields(store: SnapshotStore, changes: Changes) -> None:
    before = store.snapshot
    store.update(lambda shown: replace(shown, libvirt_up=False))
    assert store.snapshot == replace(before, libvirt_up=False)
    assert before.libvirt_up
    assert changes.count == 1


def test_a_failed_update_changes_nothing(store: SnapshotStore, changes: Changes) -> None:
    before = store.snapshot
    with pytest.raises(ZeroDivisionError):
        store.update(lambda shown: replace(shown, next_scan=1 / 0))
    assert store.snapshot is before
    store.update(lambda shown: shown)
    assert changes.count == 1


def test_removed_domain_has_no_series(store: SnapshotStore, changes: Changes) -> None:
    store.remove(guest_id("web-1"))
    assert set(store.snapshot.paused) == {guest_id("web-2")}
    assert changes.count == 1


def test_scan_does_not_restore_removed_domain(store: SnapshotStore, changes: Changes) -> None:
    store.remove(guest_id("web-1"))
    store.update(lambda _: full_snapshot())
    assert store.take_departed() == {guest_id("web-1")}
    assert set(store.snapshot.paused) == {guest_id("web-2")}
    assert changes.count == 3
    assert store.take_departed() == set()
    assert changes.count == 3


def test_a_reader_keeps_its_snapshot() -> None:
    store = SnapshotStore(snapshot())
    shown = store.snapshot
    store.update(lambda _: full_snapshot())
    assert shown == snapshot()
