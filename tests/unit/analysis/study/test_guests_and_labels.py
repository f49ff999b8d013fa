"""Assignment of traces to guests, guests' names, and their platforms and setups."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from samepaged.analysis.study.guests import guests_of
from samepaged.analysis.study.labels import check_labels, load_labels, sharing_by_platform
from samepaged.analysis.study.pairs import compare_pairs
from samepaged.analysis.study.self_sharing import by_page_size, self_sharing
from samepaged.errors import ConfigError, TraceError, UsageError
from samepaged.traces.trace import PageSizeCounts
from tests.unit.analysis.study.memory import Memory
from tests.unit.sharing import oracle

if TYPE_CHECKING:
    from pathlib import Path

    from samepaged.traces.metadata import TraceFile

P, Q, R = oracle.CONTENTS[:3]


def file(domain: str, host: str = "kvm-1", *, uuid: str | None = None, at: float = 0) -> TraceFile:
    (one,) = Memory({domain: [[P]]}).files
    about = replace(one.traces[0], host=host, uuid=uuid, scanned_at=at)
    return replace(one, path=f"{host}/{domain}/{at}", traces=(about,))


def named(*files: TraceFile) -> list[tuple[str, int]]:
    return [(guest.name, len(guest.traces)) for guest in guests_of(files)]


def test_ambiguous_guests_have_host_prefix() -> None:
    found = named(file("web"), file("web", "kvm-2"), file("db", "kvm-2"), file("web", at=1))
    assert found == [("db", 1), ("kvm-1/web", 2), ("kvm-2/web", 1)]


def test_redefined_guest_is_the_same() -> None:
    assert named(file("web", uuid="1"), file("web", uuid="2", at=1), file("web", at=2)) == [("web", 3)]


def test_moved_guest_is_the_same() -> None:
    files = (
        file("web", "kvm-1", uuid="1"),
        file("web", "kvm-2", uuid="1", at=1),
        file("web", "kvm-2", at=2),
    )
    assert named(*files) == [("web", 3)]
    assert named(*files, file("web", "kvm-4", uuid="4")) == [("kvm-2/web", 3), ("kvm-4/web", 1)]
    assert named(file("web", uuid="1"), file("clone", uuid="1", at=1)) == [("clone", 1), ("web", 1)]


def test_swapped_guests_stay_distinct() -> None:
    found = guests_of(
        [
            file("web", "kvm-1", uuid="1"),
            file("web", "kvm-2", uuid="2"),
            file("web", "kvm-2", uuid="1", at=1),
            file("web", "kvm-1", uuid="2", at=1),
        ]
    )
    assert [(guest.name, {ref.info.uuid for ref in guest.traces}) for guest in found] == [
        ("kvm-1/web", {"2"}),
        ("kvm-2/web", {"1"}),
    ]


def test_redefined_guest_beside_a_moved_one() -> None:
    moved = (file("web", "kvm-1", uuid="1"), file("web", "kvm-2", uuid="1", at=1))
    anew = (file("web", "kvm-1", uuid="2", at=2), file("web", "kvm-1", uuid="3", at=3))
    assert named(*moved, *anew) == [("kvm-1/web", 2), ("kvm-2/web", 2)]


def test_guest_names_are_unique() -> None:
    called = (file("web", "kvm-1"), file("web", "kvm-2"), file("kvm-1/web", "kvm-3"))
    assert named(*called) == [("kvm-1/web", 1), ("kvm-2/web", 1), ("kvm-3/kvm-1/web", 1)]
    ways = (file("c", "a/b"), file("c", "z"), file("b/c", "a"), file("b/c", "z"))
    assert len({name for name, _ in named(*ways)}) == 4
    both_there = [file("web", host, uuid=uuid, at=at) for uuid in "12" for at, host in enumerate(("kvm-1", "kvm-2"))]
    assert named(*both_there) == [("kvm-2/web (1)", 2), ("kvm-2/web (2)", 2)]


def test_traces_are_ordered_by_time() -> None:
    (guest,) = guests_of(
        [
            file("web", "kvm-2", uuid="1", at=1),
            file("web", "kvm-1", uuid="1", at=2),
            file("web", "kvm-2", uuid="1", at=3),
        ]
    )
    assert [ref.info.scanned_at for ref in guest.traces] == [1, 2, 3]
    assert guest.host == "kvm-2"


def test_no_traces_is_an_error() -> None:
    with pytest.raises(TraceError, match="contains no traces"):
        guests_of([replace(file("web"), traces=())])


def test_self_sharing_excludes_zero_pages() -> None:
    (guest,) = Memory({"a": [[P, P, P, oracle.ZEROS], [P, Q, oracle.ZEROS, b""], [P, P, None, Q]]}).guests
    found = self_sharing(guest)
    assert (found.pages.min, found.pages.avg, found.pages.max) == (0, 1, 2)
    assert (found.ratio.min, found.ratio.avg, found.ratio.max) == (0, 0.25, 0.5)
    assert (found.zeros.max, found.traces) == (1, 3)


def test_page_sizes_of_traces() -> None:
    memory = Memory({"a": [[P, P, P, P]], "b": [[P, P]]})
    assert by_page_size(memory.guests) == ()
    one, other = memory.files
    sizes = (PageSizeCounts(8192, 2, 0, 1, 1), PageSizeCounts(4096, 4, 0, 1, 3))
    finer = replace(one, traces=(replace(one.traces[0], by_page_size=sizes),))
    found = [
        (size.domain, size.page_size, size.self_pages, size.self_ratio)
        for size in by_page_size(guests_of([finer, other]))
    ]
    assert found == [("a", 4096, 3, 0.75), ("a", 8192, 1, 0.5), ("b", 4096, 1, 0.5)]


LABELS = """
platforms:
  - {name: new, match: ["new-*"]}
  - {name: old, match: ["old-*", "*-ancient"]}
setups:
  - {name: plain, match: ["*-plain*"]}
  - {name: server, match: ["*"]}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.yaml"
    path.write_text(text)
    return path


def test_sharing_by_platform_and_setup(tmp_path: Path) -> None:
    labels = load_labels(written(tmp_path, LABELS))
    memory = Memory(
        {
            "new-plain": [[P, P, Q]],
            "new-lamp": [[P, P, P, Q]],
            "old-plain-1": [[P, R, R, R]],
            "old-plain-2": [[R, R, P, P]],
            "nobody": [[P]],
        }
    )
    guests = memory.guests
    pairs = compare_pairs(guests, memory, max_pairs=300, random=np.random.default_rng(0))
    found = sharing_by_platform(labels, guests, [self_sharing(guest) for guest in guests], pairs)
    assert found.setups == ("plain", "server")
    assert found.unlabelled == ("nobody",)
    own = [(one.platform, one.setup, one.guests, one.self_pages) for one in found.self_sharing]
    assert own == [("new", "plain", 1, 1), ("new", "server", 1, 2), ("old", "plain", 2, 2)]
    told = [(one.platforms, one.setup, one.pairs, one.inter_pages) for one in found.pairs]
    assert told == [(("new", "old"), "plain", 2, 1), (("old", "old"), "plain", 1, 2)]
    assert [one.self_over_total for one in found.pairs] == pytest.approx([3 / 4, 4 / 6])


def test_labels_without_setups(tmp_path: Path) -> None:
    labels = load_labels(written(tmp_path, "platforms: [{name: all of them, match: ['*']}]"))
    memory = Memory({"a": [[P, P]], "b": [[P]]})
    found = sharing_by_platform(labels, memory.guests, [self_sharing(guest) for guest in memory.guests], [])
    assert [(one.platform, one.setup, one.guests) for one in found.self_sharing] == [("all of them", "all", 2)]


@pytest.mark.parametrize("kind", ["platform", "setup"])
def test_unmatched_label_is_an_error(kind: str, tmp_path: Path) -> None:
    guests = Memory({"web-1": [[P]], "web-2": [[P]]}).guests
    good = f"{kind}s: [{{name: web, match: [none, 'web-*']}}, {{name: rest, match: ['*']}}"
    check_labels(load_labels(written(tmp_path, f"{good}]")), guests)
    check_labels(load_labels(written(tmp_path, f"{good}, {{name: here, match: ['kvm-1/*']}}]")), guests)
    with pytest.raises(UsageError) as caught:
        check_labels(load_labels(written(tmp_path, f"{good}, {{name: zzz, match: ['nobody*']}}]")), guests)
    assert f"the {kind} zzz (nobody*) matches none of 2 guests" in str(caught.value)
    assert "such as web-1" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "1:1: contains no labels; write platforms: [{name: NAME, match: ['PATTERN']}]"),
        ("", "1:1: contains no labels; write platforms: [{name: NAME, match: ['PATTERN']}]"),
        ("platforms: [{name: a}]", "1:13: platforms[0].match: "),
        ("platform: []", "1:11: platform: "),
        ("setups: [{name: a, match: []}]", "1:27: setups[0].match: "),
        ("[", "is not YAML"),
    ],
)
def test_label_errors_have_a_position(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_labels(written(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "labels.yaml"))
    assert problem in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_missing_label_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        load_labels(tmp_path / "none.yaml")
