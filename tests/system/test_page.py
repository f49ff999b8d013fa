"""The page as a browser shows it: real Chromium, served by a real web process."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from samepaged.escape import printable
from samepaged.page import Page
from samepaged.scan.snapshot import GuestAttribution
from samepaged.web.client import WebClient, WebListener
from samepaged.web.process import ChildProcess
from samepaged.web.protocol import Document
from tests.support import hosts
from tests.support.browser import Tab, browser, program
from tests.support.results import answers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from samepaged.scan.snapshot import Snapshot

PHONE, DESKTOP = 360, 1280
# Directory of the screenshots, for inspection.
PICTURES: Final = os.environ.get("SAMEPAGED_PICTURES", "")
HOSTILE: Final = (
    "<script>document.title='taken'</script>",
    '"><img src=x onerror="document.title=\'taken\'">',
    "</style></title><svg onload=document.title='taken'>",
    "bidi\u202eoverride\x07\n",
    "x" * 255,
    "\u5ba2" * 80,
)


def named(names: tuple[str, ...]) -> Snapshot:
    """A host with guests of these names."""
    scan = hosts.scan([hosts.guest(name, name, 1024 + at, at) for at, name in enumerate(names)])
    return hosts.snapshot(scan, hosts.merging(scan))


def owned(of: Snapshot) -> Snapshot:
    """A host with page attribution for all guests, with arbitrary program names."""
    assert of.latest is not None
    found = {}
    for one in of.latest.scans:
        told = answers(one.name)
        programs = tuple(replace(owner, name=name) for owner in told.processes or () for name in HOSTILE)
        found[one.guest_id] = GuestAttribution(replace(told, processes=programs, kernel=HOSTILE[0]), hosts.NOW - 90_000)
    return replace(of, attributions=found)


SNAPSHOTS: Final = {
    "owned": owned(hosts.small()),
    "small": hosts.small(),
    "large": hosts.large(),
    "hostile": named(HOSTILE),
    "first": hosts.snapshot(None),
    "away": replace(hosts.small(), libvirt_up=False, merging=None, history=()),
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A web process that has a page of each of the snapshots."""
    pages = [
        Document(f"/{name}", "text/html; charset=utf-8", Page("kvm-7")(snapshot, hosts.NOW))
        for name, snapshot in SNAPSHOTS.items()
    ]
    publisher = WebClient(ChildProcess(), lambda: pages, WebListener("127.0.0.1", 0))
    try:
        publisher.start(lambda: False)
        yield f"http://127.0.0.1:{publisher._settings.port}"
    finally:
        publisher.stop()


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    if program() is None:
        pytest.skip("no chromium, which `make deps` installs where the distribution has it as a package")
    with browser() as running:
        yield running.tab()


def keep(tab: Tab, name: str) -> None:
    if PICTURES:
        Path(PICTURES, f"page-{name}.png").write_bytes(tab.picture())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("name", SNAPSHOTS)
def test_it_fits_the_window_asks_for_nothing_else_and_leaves_nothing_in_the_console(
    tab: Tab, address: str, name: str, width: int, scheme: str
) -> None:
    tab.show(f"{address}/{name}", width=width, scheme=scheme)
    keep(tab, f"{name}-{width}-{scheme}")
    assert tab.value("document.querySelectorAll('h1').length") == 1
    assert tab.value("document.documentElement.scrollWidth") <= width
    tab.value("document.querySelectorAll('details').forEach(one => { one.open = true })")
    keep(tab, f"{name}-{width}-{scheme}-open")
    assert tab.value("document.documentElement.scrollWidth") <= width
    assert [one["request"]["url"] for one in tab.told("Network.requestWillBeSent")] == [f"{address}/{name}"]
    assert tab.told("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown") == []


def test_its_colours_are_those_that_the_reader_prefers(tab: Tab, address: str) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        tab.show(f"{address}/small", width=DESKTOP, scheme=scheme)
        seen[scheme] = tab.value("getComputedStyle(document.body).backgroundColor")
    assert seen == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 22, 27)"}


def test_names_of_guests_are_shown_and_do_nothing(tab: Tab, address: str) -> None:
    tab.show(f"{address}/hostile", width=DESKTOP, script=True)
    assert tab.value("document.title") == "samepaged on kvm-7"
    assert tab.value("document.querySelectorAll('script, img, [onload]').length") == 0
    shown = tab.value("[...document.querySelectorAll('.guests tbody bdi')].map(one => one.title || one.textContent)")
    assert set(map(printable, HOSTILE)) <= set(shown)


def test_not_even_a_script_that_got_into_it_would_run(tab: Tab, address: str) -> None:
    tab.show(f"{address}/small", width=DESKTOP, script=True)
    tab.value(
        "(() => { const one = document.createElement('script'); one.text = 'document.title = 1';"
        " document.body.append(one); })()"
    )
    assert tab.value("document.title") == "samepaged on kvm-7"
    assert "Content Security Policy" in tab.wait("Log.entryAdded")["entry"]["text"]


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_a_screen_reader_is_told_what_the_eye_sees(tab: Tab, address: str, width: int) -> None:
    tab.show(f"{address}/small", width=width)
    nodes = tab.accessible()
    images = [name for role, name in nodes if role in {"image", "img", "graphics-document"}]
    assert len(images) == 7  # the host, KSM, the last day, three guests, the pairs
    assert all(images)
    assert any(name.startswith("web-1: duplicate ") for name in images)
    headings = [name for role, name in nodes if role == "heading"]
    assert headings == ["samepaged on kvm-7", "Overview", "KSM", "The last day", "Guests", "Pairs", "Not scanned"]
    # The table of guests is one even if the style lays it out as blocks.
    rows = [role for role, name in nodes if role == "rowheader" and name in {"web-1", "web-2", "db"}]
    assert len(rows) == 3
    assert [name for role, name in nodes if role == "columnheader" and name == "longest pause"]


def test_before_the_first_scan_it_says_so(tab: Tab, address: str) -> None:
    tab.show(f"{address}/first", width=PHONE)
    assert "The first scan is not finished." in tab.value("document.body.innerText")


def test_its_links_lead_where_they_say(tab: Tab, address: str) -> None:
    tab.show(f"{address}/large", width=DESKTOP)
    missing = "[...document.querySelectorAll('a[href^=\"#\"]')].filter(one => !document.querySelector(one.hash)).length"
    assert tab.value("document.querySelectorAll('a[href^=\"#\"]').length") >= 7
    assert tab.value(missing) == 0
