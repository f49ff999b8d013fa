from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.attribution.linux.dentries import are_unlinked, paths
from tests.unit.attribution.inhabited import DIRECT, Inhabited

NAMES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=40), max_size=12)


def path(guest: Inhabited, mount: int, entry: int) -> str | None:
    (found,) = paths(guest.kernel(), np.array([mount], dtype=np.uint64), np.array([entry], dtype=np.uint64))
    return found


@given(names=NAMES)
@settings(deadline=None, max_examples=25)
def test_path_joins_names_from_root(names: list[str]) -> None:
    guest = Inhabited()
    entry = guest.root
    for name in names:
        entry = guest.directory(name, entry)
    expected = "/" + "/".join(name.encode()[:256].decode(errors="replace") for name in names)
    assert path(guest, guest.mount, entry) == expected
    assert path(guest, 0, entry) == expected


def test_path_crosses_mount_points() -> None:
    guest = Inhabited()
    point, top = guest.directory("data", guest.directory("srv", guest.root)), guest.mount
    _, root, mount = guest.file_system("xfs")
    struct = mount - guest.offsets["mount.mnt"]
    guest.set(struct, "mount.mnt_parent", top - guest.offsets["mount.mnt"])
    guest.set(struct, "mount.mnt_mountpoint", point)
    entry = guest.directory("file", root)
    assert path(guest, mount, entry) == "/srv/data/file"
    assert path(guest, 0, entry) == "/file"
    assert path(guest, mount, root) == "/srv/data"


def test_circular_dentries_have_no_path() -> None:
    guest = Inhabited()
    first = guest.directory("a", guest.root)
    second = guest.directory("b", first)
    guest.set(first, "dentry.d_parent", second)
    nameless = guest.directory("c", guest.root)
    guest.set(nameless, "dentry.d_name.name", 0x10)
    _, root, mount = guest.file_system("loop")
    struct = mount - guest.offsets["mount.mnt"]
    other = guest.make("mount")
    guest.set(other + guest.offsets["mount.mnt"], "vfsmount.mnt_root", root)
    for one, upper in ((struct, other), (other, struct)):
        guest.set(one, "mount.mnt_parent", upper)
        guest.set(one, "mount.mnt_mountpoint", root)
    good = guest.directory("good", guest.root)
    asked = [(guest.mount, second), (guest.mount, nameless), (mount, root), (DIRECT, good), (guest.mount, good)]
    mounts, entries = (np.array(column, dtype=np.uint64) for column in zip(*asked, strict=True))
    found = paths(guest.kernel(), mounts, entries)
    assert found[:3] == [None, None, None]
    assert found[4] == "/good"


def test_path_depth_is_bounded() -> None:
    guest = Inhabited()
    entry = guest.root
    for _ in range(200):
        entry = guest.directory("d", entry)
    assert path(guest, guest.mount, entry) is None


def test_unhashed_dentries_are_unlinked() -> None:
    guest = Inhabited()
    gone, there = guest.directory("gone", guest.root), guest.directory("there", guest.root)
    guest.set(gone, "dentry.d_hash.pprev", 0)
    guest.set(guest.root, "dentry.d_hash.pprev", 0)
    entries = np.array([gone, there, guest.root, 0x10], dtype=np.uint64)
    assert are_unlinked(guest.kernel(), entries).tolist() == [True, False, False, False]
