"""Attribution of sharing: worked examples, and a page-by-page count by the definition."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.attribution.page_owners import KINDS, PageOwners, permissions
from samepaged.attribution.report import MAX_COPIED_PAGES, MAX_NAMED_OWNERS, AttributionReport, report_attribution
from samepaged.sharing import ABSENT, SWAPPED, ZERO, Contents, PageDigest
from samepaged.sharing.overlap import elsewhere
from tests.unit.attribution.owned import Page, digest, ownership

LIBC = "/usr/lib/libc.so.6"
P, Q, R = 100, 200, 300
READ, CODE = 1, 5


def asked(*pages: Page, others: tuple[int, ...] = (), names: bool = True) -> AttributionReport:
    contents = Contents.of(PageDigest(digest(*pages), 4096)).distinct
    found = elsewhere(contents, [np.array(sorted(others), dtype=np.uint64)])
    return report_attribution("web", ownership(*pages), digest(*pages), found, names=names)


def code(content: int, *users: str, offset: int = 0xB6000) -> Page:
    return Page(content, "library", LIBC, offset, (CODE,), users)


def heap(content: int, user: str) -> Page:
    return Page(content, "heap", "heap", users=(user,))


def test_one_content_involves_both_owners() -> None:
    found = asked(code(P, "sshd", "apache2"), heap(P, "mysqld"), heap(P, "mysqld"))
    assert found.self_sharing_pages == found.sharing_pages == 2
    assert {one.name: (one.pages, one.sharing_pages) for one in found.kinds} == {"library": (1, 2), "heap": (2, 2)}
    assert found.processes is not None
    assert {one.name: one.sharing_pages for one in found.processes} == {"sshd": 2, "apache2": 2, "mysqld": 2}
    assert found.files is not None
    assert [(one.name, one.pages, one.sharing_pages) for one in found.files] == [(LIBC, 1, 2)]


def test_page_users_are_truncated() -> None:
    users = [f"worker-{number:04}" for number in range(1000)]
    found = asked(code(P, *users), code(P, *users))
    (copied,) = found.most_copied
    assert copied.owners == (f"[libc.so.6 000b6000 r-xp]: {' '.join(users[:32])} and 968 more",)


def test_split_adds_up() -> None:
    found = asked(code(P, "sshd", "apache2"), heap(P, "mysqld"), heap(P, "mysqld"))
    split = {one.name: one.split_pages for one in found.kinds}
    assert split == {"library": pytest.approx(2 / 3, abs=1e-3), "heap": pytest.approx(4 / 3, abs=1e-3)}
    assert found.processes is not None
    parts = {one.name: one.split_pages for one in found.processes}
    assert parts == {
        "sshd": pytest.approx(1 / 3, abs=1e-3),
        "apache2": pytest.approx(1 / 3, abs=1e-3),
        "mysqld": pytest.approx(4 / 3, abs=1e-3),
    }


def test_self_and_inter_sharing_are_separate() -> None:
    found = asked(code(P, "sshd"), heap(Q, "mysqld"), heap(Q, "mysqld"), heap(R, "sshd"), others=(P, Q))
    assert (found.self_sharing_pages, found.inter_sharing_pages) == (1, 2)
    assert {one.name: (one.self_sharing_pages, one.inter_sharing_pages) for one in found.kinds} == {
        "library": (0, 1),
        "heap": (1, 1),
    }


def test_combined_kinds_are_reported() -> None:
    found = asked(heap(P, "a"), Page(P, "anonymous", "anon", users=("a",)), code(P, "a"), heap(Q, "a"), heap(Q, "a"))
    together = {one.name: (one.pages, one.sharing_pages) for one in found.combined_kinds}
    assert together == {"heap+anonymous": (4, 3), "library+private_file": (1, 2)}


def test_in_use_sharing_excludes_free_pages() -> None:
    free = [Page(P, "free"), Page(P, "free"), Page(Q, "free")]
    found = asked(*free, heap(P, "a"), heap(P, "a"), heap(Q, "a"))
    assert (found.self_sharing_pages, found.in_use_self_sharing_pages) == (4, 1)


def test_many_offsets_become_one_line() -> None:
    many = [Page(P, "shmem", "/SYSV00000000 (deleted)", place * 4096, (11,), ("Xvfb",)) for place in range(9)]
    (copied,) = asked(*many, heap(P, "b")).most_copied
    assert copied.owners == ("[SYSV00000000 (deleted) rw-s]: Xvfb", "[heap]: b")
    assert copied.owner_pages == (9, 1)
    few = asked(*many[:2]).most_copied[0]
    assert few.owners == (
        "[SYSV00000000 (deleted) 00000000 rw-s]: Xvfb",
        "[SYSV00000000 (deleted) 00001000 rw-s]: Xvfb",
    )


def test_absent_swapped_and_zero_pages_are_not_shared() -> None:
    pages = [Page(state, "heap", "heap", users=("sh",)) for state in (ABSENT, SWAPPED, ZERO) for _ in range(3)]
    found = asked(*pages, Page(ZERO, "free"))
    assert found.sharing_pages == 0
    assert found.most_copied == ()
    assert {one.name: (one.pages, one.sharing_pages) for one in found.kinds} == {"heap": (9, 0), "free": (1, 0)}
    assert (found.memory_pages, found.in_use_pages) == (10, 9)


def test_most_copied_pages_are_sorted() -> None:
    found = asked(heap(Q, "mysqld"), heap(Q, "mysqld"), code(P, "sshd", "apache2"), heap(P, "Xorg"), heap(P, "Xorg"))
    assert [(one.copies, one.owners) for one in found.most_copied] == [
        (3, ("[heap]: Xorg", "[libc.so.6 000b6000 r-xp]: apache2 sshd")),
        (2, ("[heap]: mysqld",)),
    ]


def test_all_permissions_are_listed() -> None:
    twice = Page(P, "library", LIBC, 0x1000, (READ, CODE), ("a", "b"))
    cached = Page(P, "page_cache", "/var/log/syslog", 0x2000)
    assert asked(twice, cached).most_copied[0].owners == (
        "[libc.so.6 00001000 r--p,r-xp]: a b",
        "[syslog 00002000]",
    )


def test_report_without_guest_names() -> None:
    pages = code(P, "secret-program"), heap(P, "secret-program"), Page(P, "slab", "slab secret-cache")
    found = asked(*pages, names=False)
    assert "secret" not in repr(found)
    assert LIBC not in repr(found)
    assert (found.processes, found.files) == (None, None)
    assert found.most_copied[0].owners == ("[heap]", "[library]", "[slab]")


def test_copied_pages_and_owners_are_bounded() -> None:
    many = [heap(P + number, "sh") for number in range(MAX_COPIED_PAGES + 5) for _ in range(2)]
    crowd = [heap(P - 1, f"process-{number}") for number in range(MAX_NAMED_OWNERS + 7)]
    found = asked(*many, *crowd).most_copied
    assert len(found) == MAX_COPIED_PAGES
    assert (found[0].copies, len(found[0].owners), found[0].more_owners) == (MAX_NAMED_OWNERS + 7, MAX_NAMED_OWNERS, 7)


def test_unknown_owners_keep_the_sharing() -> None:
    pages = digest(heap(P, "a"), heap(P, "b"), heap(Q, "c"))
    unknown = PageOwners.unknown(3, "no Linux kernel was found in it")
    found = report_attribution("win", unknown, pages, np.zeros(2, dtype=np.bool_), names=True)
    assert (found.kernel, found.labelled_ratio, found.note) == (None, 0.0, "no Linux kernel was found in it")
    assert [(one.name, one.pages, one.sharing_pages) for one in found.kinds] == [("unknown", 3, 1)]


def test_mismatched_page_count_is_refused() -> None:
    unknown = PageOwners.unknown(2, "")
    with pytest.raises(ValueError, match="2 pages have owners, and 3 pages have hashes"):
        report_attribution("a", unknown, np.zeros(3, np.uint64), np.zeros(0, np.bool_), names=True)


def test_permissions_as_in_proc_maps() -> None:
    assert [permissions(mask) for mask in (0, 1, 3, 5, 15)] == ["---p", "r--p", "rw-p", "r-xp", "rwxs"]


PAGES = st.lists(
    st.builds(
        Page,
        content=st.sampled_from([ABSENT, SWAPPED, ZERO, *range(10, 18)]),
        kind=st.sampled_from(KINDS),
        label=st.sampled_from([None, LIBC, "/a", "heap"]),
        offset=st.sampled_from([-1, 0, 4096]),
        modes=st.lists(st.integers(0, 15), max_size=2).map(tuple),
        users=st.lists(st.sampled_from("abc"), max_size=3).map(tuple),
    ),
    max_size=40,
)


@given(PAGES, st.sets(st.integers(10, 17)))
def test_involvement_equals_page_by_page_count(pages: list[Page], others: set[int]) -> None:
    found = asked(*pages, others=tuple(others))
    by_content = defaultdict(list)
    for page in pages:
        if page.content >= 10:
            by_content[page.content].append(page)
    own: defaultdict[tuple[str, str], int] = defaultdict(int)
    inter: defaultdict[tuple[str, str], int] = defaultdict(int)
    for content, held in by_content.items():
        owners = {("kind", page.kind) for page in held} | {("process", user) for page in held for user in page.users}
        for owner in owners:
            own[owner] += len(held) - 1
            inter[owner] += content in others
    assert found.processes is not None
    for what, answers in (("kind", found.kinds), ("process", found.processes)):
        for one in answers:
            assert one.self_sharing_pages == own[what, one.name]
            assert one.inter_sharing_pages == inter[what, one.name]
    assert found.self_sharing_pages == sum(len(held) - 1 for held in by_content.values())
    assert found.inter_sharing_pages == len(by_content.keys() & others)
    assert sum(one.split_pages for one in found.kinds) == pytest.approx(found.sharing_pages, abs=0.05)
    assert sum(one.split_pages for one in found.processes) <= found.sharing_pages + 0.05
    assert sum(one.pages for one in found.kinds) == len(pages)


@given(st.sets(st.integers(0, 60)), st.lists(st.sets(st.integers(0, 60)), max_size=4))
def test_elsewhere_equals_union_membership(own: set[int], others: list[set[int]]) -> None:
    arrays = [np.array(sorted(one), dtype=np.uint64) for one in (own, *others)]
    union = set().union(*others)
    assert elsewhere(arrays[0], arrays[1:]).tolist() == [content in union for content in sorted(own)]
