"""The page at `/` as HTML. tests/system/test_page.py tests it in a browser."""

from __future__ import annotations

import re
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samepaged.config import ScanConfig
from samepaged.errors import Reason
from samepaged.escape import printable
from samepaged.page import Page
from samepaged.page.style import STYLE
from samepaged.scan.results import HostScan, SkippedGuest
from samepaged.scan.snapshot import ConfigStatus, Snapshot
from samepaged.service.web_feed import MAX_DOCUMENT_BYTES
from samepaged.sharing import SharingReport
from samepaged.text_layout import elided
from tests.support import hosts
from tests.support.hosts import NOW
from tests.support.results import AWKWARD_NAMES, full_snapshot, guest_id
from tests.support.results import snapshot as bare

TREE = Path(__file__).parents[3]
EMPTY = HostScan(NOW, 0.1, (), (), SharingReport(4096, (), (), (), 0, 0))
BLOCKS = re.compile(r"</?(?:caption|d[dlt]|div|h\d|li|p|section|small|t[dhr]|title|ul)\b[^>]*>|</strong>(?=[\w<])")


def page(snapshot: Snapshot, now: float = NOW) -> str:
    return Page("kvm-7")(snapshot, now).decode()


def tree(snapshot: Snapshot, now: float = NOW) -> ET.Element:
    return ET.fromstring(page(snapshot, now))  # noqa: S314 - it is ours


def text(of: ET.Element | None) -> str:
    assert of is not None
    apart = BLOCKS.sub(" ", ET.tostring(of, encoding="unicode"))
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", "", apart))).strip()


def section(root: ET.Element, name: str) -> ET.Element:
    found = root.find(f".//section[@id='{name}']")
    assert found is not None
    return found


def guest_names(root: ET.Element) -> list[str]:
    return [one.get("title") or one.text or "" for one in root.findall(".//section[@id='guests']//tr/th/bdi")]


def called(*names: str) -> Snapshot:
    scan = hosts.scan([hosts.guest(name, "tenant", 64, at) for at, name in enumerate(names)])
    skipped = tuple(SkippedGuest(f"{name}!", Reason.READ, f"domain {name} cannot be read") for name in names)
    return hosts.snapshot(replace(scan, skipped=skipped), hosts.merging(scan))


class Tags(HTMLParser):
    """Return the elements and attribute names found by an HTML parser."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))


@pytest.mark.parametrize(
    "snapshot",
    [hosts.small(), hosts.large(), hosts.snapshot(None), hosts.snapshot(EMPTY), bare(), full_snapshot()],
    ids=["small", "large", "before the first scan", "no guest", "nothing known", "all known"],
)
def test_page_is_well_formed_and_self_contained(snapshot: Snapshot) -> None:
    html = tree(snapshot)
    assert text(html.find(".//h1")) == "samepaged on kvm-7"
    for element in html.iter():
        assert element.tag not in {"script", "img", "iframe", "object", "link", "form", "base"}
        assert not {name for name in element.attrib if name.startswith("on") or name in {"style", "src"}}
        assert not re.match(r"[\w+.-]*:|//", element.get("href", ""))
    assert "url(" not in STYLE
    assert "@import" not in STYLE


def test_longest_suspended_guest_is_shown() -> None:
    shown = tree(full_snapshot())
    assert "Most suspended 400 ppm of the last hour, guest web-1" in text(shown)
    assert "400 ppm of the last hour" in text(section(shown, "guests"))
    over = replace(full_snapshot(), scan_config=ScanConfig(max_pause=0.25, interval=900.0, max_drift=0.0003))
    assert "bad" in {one.get("class") for one in tree(over).iter("div") if "Most suspended" in text(one)}


def test_policy_allows_only_own_style() -> None:
    html = tree(hosts.small())
    style = html.find(".//style")
    policy = html.find(".//meta[@http-equiv='Content-Security-Policy']")
    assert style is not None
    assert policy is not None
    digest = b64encode(sha256((style.text or "").encode()).digest()).decode()
    assert set(policy.get("content", "").split("; ")) >= {"default-src 'none'", f"style-src 'sha256-{digest}'"}


names = st.text(st.characters(), max_size=300) | st.text(st.sampled_from("<>&'\"/\\;\u202e\x00\n=script"), max_size=20)


@settings(deadline=None, max_examples=60)
@given(st.lists(names, min_size=2, max_size=4, unique=True))
def test_names_are_escaped_in_html(found: list[str]) -> None:
    snapshot = called(*found)
    assert sorted(guest_names(tree(snapshot))) == sorted(printable(name) or "(no name)" for name in found)
    plain = called(*(f"guest-{at}" for at in range(len(found))))

    def tags(of: Snapshot) -> list[tuple[str, tuple[str, ...]]]:
        return sorted((tag, tuple(n for n in told if n != "title")) for tag, told in Tags(page(of)).found)

    assert tags(snapshot) == tags(plain)


def test_awkward_names_are_shown() -> None:
    assert set(guest_names(tree(called(*AWKWARD_NAMES)))) == {printable(name) or "(no name)" for name in AWKWARD_NAMES}


def test_page_shows_time_of_first_scan() -> None:
    shown = text(tree(hosts.snapshot(None)).find(".//main"))
    assert "The first scan is not finished." in shown
    assert "Next scan in 11 min" in shown


def test_page_of_host_without_guests() -> None:
    assert "The scan did not include any guest." in text(section(tree(hosts.snapshot(EMPTY)), "guests"))


def test_page_shows_last_and_next_scan() -> None:
    shown = text(tree(hosts.small()).find(".//main"))
    assert "Last scan 4 min ago 13:09:19 UTC, took 11.4 s" in shown
    assert "Next scan in 11 min 13:24:12 UTC" in shown
    assert "Next scan due" in text(tree(hosts.small(), NOW + 3600).find(".//main"))


def test_problems_come_first() -> None:
    assert tree(hosts.small()).find(".//ul[@class='notes']") is None
    status = ConfigStatus(last_load_successful=False, loaded_at=NOW - 90000)
    bad = replace(hosts.small(), libvirt_up=False, config=status)
    notes = [text(one) for one in tree(bad, NOW + 7200).findall(".//ul[@class='notes']/li")]
    assert [note.split(". ")[0] for note in notes] == [
        "samepaged is not connected to libvirt",
        "The reload of the configuration failed",
        "The last scan is 2 h old; the scan interval is 15 min",
    ]
    assert "The configuration of 3 March, 12:13 UTC is in force" in notes[1]


def test_host_figures_match_the_scan() -> None:
    shown = text(tree(full_snapshot()).find(".//main"))
    assert "Memory of the guests 7.81 MiB 2 guests" in shown
    assert "Self-sharing 720 KiB 9.0%, within each guest" in shown
    assert "Inter-VM sharing 160 KiB 2.0%, between guests" in shown
    assert "Zero pages 1.56 MiB 20%, not in the sharing" in shown


def test_departed_guest_remains_only_in_totals() -> None:
    root = tree(hosts.small().without(guest_id("db")))
    assert "2 guests and 1 that left since the scan" in text(root)
    assert "db" not in [one.text for one in root.iter("bdi")]


def test_guest_bar_sums_to_memory() -> None:
    bars = section(tree(hosts.large()), "guests").findall(".//table//svg")
    assert len(bars) == 200
    for bar in bars:
        assert sum(float(part.get("width", "").rstrip("%")) for part in bar.iter("rect")) == pytest.approx(
            100, abs=0.05
        )
    told = [text(bar) for bar in bars]
    assert "web-01.tenant-0.example: duplicate 81.9 MiB (4.0%), distinct, shared with others" in " ".join(told)


def test_guests_are_ordered_by_sharing() -> None:
    root = section(tree(hosts.large()), "guests")
    assert len(root.findall("table/tbody/tr")) == 25
    assert len(root.findall("details/table/tbody/tr")) == 175
    assert text(root.find("details/summary")) == "175 more guests with less sharing"
    small = guest_names(tree(hosts.small()))
    assert small == ["db", "web-2", "web-1"]


def test_guest_rows_have_marks() -> None:
    root = tree(hosts.large())
    marks = {
        text(row.find("th/bdi")): [text(one) for one in row.findall(".//span")]
        for row in root.iter("tr")
        if row.find("th/bdi") is not None
    }
    assert "fallback: hugetlb" in marks["build-01.tenant-0.example"]
    assert "KSM cannot merge it: huge pages of hugetlbfs" in marks["build-01.tenant-0.example"]
    assert marks["shop-01.tenant-1.example"] == ["from the scan at 12:39:08 UTC"]
    assert marks["mail-02.tenant-0.example"] == ["over the limit"]


def test_device_writes_are_marked() -> None:
    shown = hosts.small()
    assert shown.latest is not None
    first, *others = shown.latest.scans
    marked = replace(shown.latest, scans=(replace(first, device_writes=True), *others))
    mark = "a passed-through device may have written during the scan"
    assert page(shown).count(mark) == 0
    assert page(replace(shown, latest=marked)).count(mark) == 1


def test_pause_over_limit_is_marked() -> None:
    limits = ScanConfig(max_pause=0.05, interval=900, max_drift=1)
    assert "over the limit of 50.0 ms" in text(tree(replace(hosts.small(), scan_config=limits)))
    assert "within the limit of 250 ms" in text(tree(hosts.small()))


def test_large_map_has_largest_pairs() -> None:
    snapshot = hosts.large()
    assert snapshot.latest is not None
    pairs = section(tree(snapshot), "pairs")
    assert "The map shows the 24 guests in the largest pairs, of 200 guests." in text(pairs)
    chart = pairs.find(".//svg[@role='img']")
    assert chart is not None
    assert len(chart.findall("rect")) == 24 * 23 // 2
    labels = {text(one) for one in chart.findall("text")}
    assert len(labels) == 24
    assert set(snapshot.latest.report.pairs[0].domains) <= labels
    assert "The 10 largest of 19,900 pairs." in text(pairs)


def test_similar_guests_are_adjacent_on_map() -> None:
    guests = [hosts.guest(f"{kind}-{at}", "tenant", 1024, 7) for at in range(4) for kind in ("web", "db")]
    chart = section(tree(hosts.snapshot(hosts.scan(guests))), "pairs").find(".//svg[@role='img']")
    assert chart is not None
    kinds = [text(one).split("-")[0] for one in chart.findall("text")]
    assert kinds in (["web"] * 4 + ["db"] * 4, ["db"] * 4 + ["web"] * 4)


def test_page_reports_pairs_without_sharing() -> None:
    scan = hosts.scan([hosts.guest(name, "tenant", 64, 1) for name in "ab"])
    nothing = replace(scan, report=replace(scan.report, pairs=()))
    assert "The guests do not have pages in common." in text(section(tree(hosts.snapshot(nothing)), "pairs"))


def test_failures_come_before_excluded_guests() -> None:
    root = section(tree(hosts.large()), "skipped")
    rows = [text(row) for row in root.findall(".//tbody/tr")]
    assert [row.split()[0] for row in rows] == ["enclave", "moving", "vault"]
    assert rows[1].endswith("it is scanned when that is done 4 times since samepaged started")
    assert "intended" in rows[2]


def test_common_fallback_is_shown_once() -> None:
    items = section(tree(hosts.large()), "fallbacks").findall("ul/li")
    assert len(items) == 1
    assert "and 6 more (hugetlb): its memory is in huge pages of hugetlbfs" in text(items[0])


@pytest.mark.parametrize(
    ("run", "part", "told"),
    [
        (1, 0.62, "KSM is running. It has merged 7.46 GiB, 62% of the potential 12.0 GiB"),
        (
            0,
            0.0,
            (
                "KSM is stopped; merged pages stay merged until a guest writes to them. "
                "If enabled, it could save 11.7 GiB net"
            ),
        ),
        (0, 0.5, "It has merged 6.02 GiB, 50% of the potential"),
        (2, 0.0, "KSM is stopped, with all pages unmerged. If enabled"),
        (1, 1.5, "It has merged 18.1 GiB, 150% of the potential"),
    ],
)
def test_merged_memory_is_beside_potential(run: int, part: float, told: str) -> None:
    snapshot = hosts.small()
    assert snapshot.latest is not None
    root = section(tree(replace(snapshot, merging=hosts.merging(snapshot.latest, run=run, part=part))), "ksm")
    assert told in text(root)
    widths = [float(one.get("width", "").rstrip("%")) for one in root.findall("svg/rect")]
    assert sum(widths) == pytest.approx(100, abs=0.05)


def test_unprofitable_ksm_is_not_recommended() -> None:
    snapshot = hosts.small()
    assert snapshot.latest is not None
    latest = replace(snapshot.latest, attainable_pages=1, attended_pages=1 << 20)
    stopped = hosts.merging(latest, run=0, part=0)
    assert "it would save nothing" in text(section(tree(replace(snapshot, latest=latest, merging=stopped)), "ksm"))


def test_unreadable_counters_are_unknown() -> None:
    root = tree(replace(hosts.small(), merging=None))
    assert "KSM counters are not available" in text(section(root, "ksm"))
    assert "12.0 GiB" in text(section(root, "ksm"))


def test_page_of_200_guests_is_small() -> None:
    assert len(page(hosts.large())) < 500_000


def test_page_of_longest_names_is_servable() -> None:
    worst = [f"{at:04}" + "\U000e0001" * 251 for at in range(1200)]
    scan = hosts.scan([hosts.guest(name, name, 64, at) for at, name in enumerate(worst[:4])])
    first = scan.report.guests[0]
    guests = tuple(replace(first, name=name, group=name) for name in worst)
    how = tuple(replace(scan.scans[0], name=name, fallback_code="busy", fallback_reason=name) for name in worst)
    skipped = tuple(SkippedGuest(name, Reason.READ, f"domain {printable(name)}") for name in worst)
    scan = replace(scan, report=replace(scan.report, guests=guests), scans=how, skipped=skipped)
    html = page(hosts.snapshot(scan))
    assert len(html) < MAX_DOCUMENT_BYTES
    assert "1000 of 1200 guests; the JSON and the metrics have all." in html


@pytest.mark.parametrize("name", ["x" * 255, '"><b onload="' * 20, "&quot;'" * 30])
def test_tooltip_has_the_full_name(name: str) -> None:
    root = tree(called(name, "y"))
    bdi = root.find(".//section[@id='guests']//tr/th/bdi[@title]")
    assert bdi is not None
    assert (bdi.text, bdi.get("title")) == (elided(name, 60), name)


def luminance(colour: str) -> float:
    full = colour if len(colour) == 7 else "#" + "".join(c * 2 for c in colour[1:])
    parts = [int(full[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast_meets_wcag(theme: int) -> None:
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]+)", STYLE.split(":root {")[theme + 1].split("}")[0]))
    for ink in ("ink", "soft", "link"):
        for ground in ("ground", "panel"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    assert contrast(colours["ink"], colours["warn"]) >= 4.5
    assert contrast(colours["on"], colours["inter"]) >= 4.5
    for meaning in ("self", "inter", "merged", "swapped", "edge"):
        assert contrast(colours[meaning], colours["ground"]) >= 2.9, meaning


def test_rendering_opens_no_file() -> None:
    # An upgrade may replace files while the service runs, and file descriptors may run out.
    script = (
        "import sys; from samepaged.page import Page; from tests.support import hosts; snapshot = hosts.large();"
        "opened = []; sys.addaudithook(lambda event, values: event == 'open' and opened.append(values[0]));"
        "page = Page('kvm-7')(snapshot, hosts.NOW); assert b'heat map' in page.lower(); print(opened)"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=TREE)
    assert run.stdout == "[]\n"
