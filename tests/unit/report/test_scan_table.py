from __future__ import annotations

import dataclasses
import io
import os
import pty
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.drift.ledger import PausedTime
from samepaged.errors import Reason
from samepaged.formatting import seconds, size
from samepaged.report.scan_table import Progress, table
from samepaged.scan.results import SkippedGuest
from samepaged.sharing import GroupSharing, PageSizeSharing, PairSharing
from samepaged.text_layout import columns
from tests.support.results import AWKWARD_NAMES, guest_id, host_scan, stable_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=90)

READS = r"""
                                                 shared
                       zero+             self-     with          longest
guest        memory   absent distinct  sharing   others mode       pause
web-1       256 MiB 76.8 MiB  154 MiB 23.0 MiB 12.8 MiB snapshot 31.2 ms
back\nup-客 256 MiB 76.8 MiB  154 MiB 23.0 MiB 12.8 MiB snapshot 31.2 ms

memory of the guests   512 MiB  100.0%
self-sharing          46.1 MiB    9.0%
inter-VM sharing       160 KiB    0.0%
total sharing         46.2 MiB    9.0%

    self  inter-VM  group
23.0 MiB     4 KiB  blue
23.0 MiB     0 KiB  green

inter-VM  largest pairs
 160 KiB  web-1 + back\nup-客

skipped
  db (encrypted): memory of domain db is encrypted (SEV), so its pages cannot be
    compared; exclude it
"""


def test_table_of_a_small_scan() -> None:
    scan = host_scan(
        "web-1",
        "back\nup-客",
        pages=65536,
        groups=(GroupSharing("blue", 5898, 1), GroupSharing("green", 5898, 0)),
        pairs=(PairSharing(("web-1", "back\nup-客"), 40),),
        skipped=(
            SkippedGuest(
                "db",
                Reason.ENCRYPTED,
                "memory of domain db is encrypted (SEV), so its pages cannot be compared; exclude it",
            ),
        ),
    )

    assert table(scan) == READS.strip("\n")


def test_longest_suspended_guests_are_named() -> None:
    paused = {
        "never": PausedTime(0, 0),
        "some": PausedTime(0.1, 0.1 / 3600),
        "other": PausedTime(0.1, 0.09 / 3600),
        "more": PausedTime(90.0, 0.0005),
        "least": PausedTime(0.1, 0.01 / 3600),
    }
    shown = table(host_scan("some", "more"), paused=paused)
    assert shown.partition("suspended  of")[2].splitlines()[1:4] == [
        "   1.80 s           500 ppm  more",
        "   100 ms            28 ppm  some",
        "  90.0 ms            25 ppm  other",
    ]
    assert "least" not in shown
    assert "suspended" not in table(host_scan("some"), paused={"some": PausedTime(1.0, 0.0)})


READS_WITH_MORE = """
                                           shared
                 zero+             self-     with           longest
guest  memory   absent distinct  sharing   others mode        pause
web-1 256 MiB 76.8 MiB  154 MiB 23.0 MiB 12.8 MiB snapshot* 31.2 ms
web-2 256 MiB 76.8 MiB  154 MiB 23.0 MiB 12.8 MiB snapshot* 31.2 ms
db    256 MiB 76.8 MiB  154 MiB 23.0 MiB 12.8 MiB snapshot* 31.2 ms
proxy 256 MiB 76.8 MiB  154 MiB 23.0 MiB 12.8 MiB snapshot  31.2 ms

memory of the guests  1.00 GiB  100.0%
self-sharing          92.2 MiB    9.0%
inter-VM sharing       160 KiB    0.0%
total sharing         92.3 MiB    9.0%
stable sharing        23.1 MiB    2.3%  for 2 of 4 guests

by page size      self  inter-VM     total
       4 KiB  92.2 MiB   160 KiB  92.3 MiB    9.0%
       8 KiB  46.9 MiB    80 KiB  47.0 MiB    4.6%
       2 MiB  2.00 MiB     0 KiB  2.00 MiB    0.2%

* fallback from the preferred mode or reader
  web-1, db (kernel): this kernel does not support soft-dirty bits
    (CONFIG_MEM_SOFT_DIRTY)
  web-2 (layout): 512 MiB of its RAM was not found in the process; the dump
    reader was taken instead
"""


def test_table_of_a_full_scan() -> None:
    scan = host_scan(
        "web-1",
        "web-2",
        "db",
        "proxy",
        pages=65536,
        stable=stable_report("web-1", "db", pages=32768),
        page_sizes=(PageSizeSharing(8192, 131072, 19660, 6000, 10), PageSizeSharing(2 << 20, 512, 12, 1, 0)),
        fallbacks={
            "web-1": ("kernel", "this kernel does not support soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)"),
            "db": ("kernel", "this kernel does not support soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)"),
            "web-2": ("layout", "512 MiB of its RAM was not found in the process; the dump reader was taken instead"),
        },
    )

    assert table(scan) == READS_WITH_MORE.strip("\n")


def test_common_fallback_is_printed_once() -> None:
    names = [f"guest-{n}" for n in range(200)]
    shown = table(host_scan(*names, fallbacks=dict.fromkeys(names, ("kernel", "no soft-dirty bits"))))

    assert shown.endswith(
        "\n\n* fallback from the preferred mode or reader\n  all 200 guests (kernel): no soft-dirty bits"
    )


def test_device_writes_mark_the_mode() -> None:
    fallbacks = {"b": ("vfio", "a device of the host is passed through")}
    shown = table(host_scan("a", "b", "c", fallbacks=fallbacks, devices=frozenset({"a", "b"})))

    assert [line.split()[-3] for line in shown.splitlines()[3:6]] == ["snapshot+", "snapshot*+", "snapshot"]
    assert [line for line in shown.splitlines() if line.startswith("+")] == [
        "+ a passed-through device may have written during the scan; not of one instant"
    ]
    assert "+ a passed" not in table(host_scan("a"))


def test_no_fallback_means_no_footnote() -> None:
    assert "*" not in table(host_scan("a", "b"))


def test_complete_stable_sharing_has_no_note() -> None:
    shown = table(host_scan("a", "b", stable=stable_report("a", "b"))).splitlines()

    assert [line for line in shown if "stable" in line or "known" in line] == ["stable sharing         388 KiB    4.9%"]


def test_unknown_stable_sharing_is_omitted() -> None:
    assert "stable" not in table(host_scan("a"))


def test_single_page_size_has_no_section() -> None:
    assert "page size" not in table(host_scan("a"))


def test_single_group_has_no_section() -> None:
    assert "group" not in table(host_scan("a", groups=(GroupSharing("tenant", 9, 0),)))


def test_five_largest_pairs_in_order() -> None:
    pairs = tuple(PairSharing((f"a{n}", f"b{n}"), n) for n in (0, 3, 9, 1, 7, 5, 2))
    shown = table(host_scan("a", pairs=pairs)).partition("largest pairs\n")[2].splitlines()

    assert [line.split()[-1] for line in shown] == ["b9", "b7", "b5", "b3", "b2"]


def test_pairs_without_sharing_are_omitted() -> None:
    assert "pairs" not in table(host_scan("a", "b", pairs=(PairSharing(("a", "b"), 0),)))


def test_unsuspended_guest_has_no_pause() -> None:
    scan = host_scan("a")
    live = dataclasses.replace(scan.scans[0], mode="live", pauses=0, pause_seconds=0.0, longest_pause_seconds=0.0)

    assert table(dataclasses.replace(scan, scans=(live,))).splitlines()[3].split()[-2:] == ["live", "-"]


def test_all_guests_skipped_shows_reasons() -> None:
    shown = table(host_scan(skipped=(SkippedGuest("db", Reason.NO_PID, "domain db has no pid"),)))

    assert shown.splitlines() == ["no guests scanned", "", "skipped", "  db (no_pid): domain db has no pid"]


def test_long_remedy_is_wrapped_completely() -> None:
    message = "cannot read " + "/very/long/path" * 9 + "; run it as root"
    shown = table(host_scan(skipped=(SkippedGuest("db", Reason.NO_PERMISSION, message),)))

    assert message.replace(" ", "") in shown.replace("\n", "").replace(" ", "")
    assert max(map(columns, shown.splitlines())) <= 80


@settings(deadline=None)
@given(
    names=st.lists(ANY_TEXT, min_size=1, max_size=3, unique=True),
    pages=st.integers(0, 1 << 38),
    width=st.integers(72, 120),
    text=ANY_TEXT,
    fallback=ANY_TEXT,
    page_size=st.sampled_from([1 << 10, 1 << 13, 1 << 21]),
)
def test_every_line_fits_the_width(
    names: list[str], pages: int, width: int, text: str, fallback: str, page_size: int
) -> None:
    scan = host_scan(
        *names,
        pages=pages,
        groups=(GroupSharing(text, pages, pages), GroupSharing("", 0, 0)),
        pairs=(PairSharing((names[0], text), pages),),
        skipped=(SkippedGuest(text, Reason.READ, text),),
        stable=stable_report(names[0], pages=pages, inter=pages),
        page_sizes=(PageSizeSharing(page_size, pages * 4096 // page_size, 0, pages * 4096 // page_size, 0),),
        fallbacks={names[-1]: (text, fallback)},
    )
    lines = table(scan, width).splitlines()

    assert max(map(columns, lines)) <= width
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_awkward_name_stays_on_one_row(name: str) -> None:
    assert len(table(host_scan(name, "other")).splitlines()) == len(table(host_scan("plain", "other")).splitlines())


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "0 KiB"),
        (4096, "4 KiB"),
        ((1 << 20) - 4096, "1020 KiB"),
        (1 << 20, "1.00 MiB"),
        ((1 << 20) * 9996 // 1000, "10.0 MiB"),
        (256 << 20, "256 MiB"),
        ((1 << 30) - 1, "1.00 GiB"),
        (20 << 40, "20.0 TiB"),
    ],
)
def test_sizes_have_three_digits(amount: int, shown: str) -> None:
    assert size(amount) == shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [(0.0, "0.00 ms"), (0.00321, "3.21 ms"), (0.25, "250 ms"), (0.9996, "1.00 s"), (12.34, "12.3 s")],
)
def test_seconds_have_three_digits(amount: float, shown: str) -> None:
    assert seconds(amount) == shown


@pytest.fixture
def terminal() -> Iterator[tuple[io.TextIOWrapper, Callable[[], str]]]:
    """A terminal for output, and the output so far."""
    master, slave = pty.openpty()
    stream = os.fdopen(slave, "w", encoding="utf-8")
    yield stream, lambda: os.read(master, 65536).decode()
    stream.close()
    os.close(master)


def test_progress_line_is_wiped(
    terminal: tuple[io.TextIOWrapper, Callable[[], str]],
) -> None:
    stream, written = terminal
    with Progress(stream) as progress:
        progress.show(1, 4, "web-1")
        assert written() == "\r[....................] guest 1 of 4: web-1"
        progress.show(3, 4, "db")
        assert written() == "\r[##########..........] guest 3 of 4: db   "
    assert written() == "\r" + " " * 39 + "\r"


def test_progress_never_wraps_and_escapes_names(terminal: tuple[io.TextIOWrapper, Callable[[], str]]) -> None:
    stream, written = terminal
    Progress(stream).show(1, 2, "客\x1b[2J" * 60)
    line = written().removeprefix("\r")

    assert line.isprintable()
    assert columns(line) < 80


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_progress_needs_a_terminal(kind: str, tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "stderr")  # noqa: PTH118 - one path for both kinds
    with open(path, "w+", encoding="utf-8") if kind == "file" else io.StringIO() as stream:  # noqa: PTH123 - as above
        with Progress(stream) as progress:
            progress.show(1, 1, "web-1")
        stream.seek(0)
        assert stream.read() == ""


def test_unused_progress_writes_nothing(
    terminal: tuple[io.TextIOWrapper, Callable[[], str]],
) -> None:
    stream, written = terminal
    with Progress(stream):
        pass
    stream.write("end")
    stream.flush()

    assert written() == "end"


def test_departed_guest_has_no_row() -> None:
    scan = host_scan("stays", "leaves").without(guest_id("leaves"))

    assert "leaves" not in table(scan)
