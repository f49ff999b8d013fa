from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from samepaged.config import ExportConfig
from samepaged.errors import Reason
from samepaged.escape import valid
from samepaged.metrics.exposition import MetricsText
from samepaged.metrics.metric import Metric
from samepaged.scan.results import HostScan, SkippedGuest
from samepaged.scan.snapshot import ConfigStatus, Histogram, Snapshot, SnapshotStore
from samepaged.sharing import GroupSharing, PageSizeSharing, PairSharing
from tests.support.results import AWKWARD_NAMES, STARTED, full_snapshot, guest_id, host_scan, snapshot, stable_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import Metric as Family

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def exposition(shown: Snapshot, *, pairs: int = 20, openmetrics: bool = False) -> str:
    bounded = dataclasses.replace(shown, export_config=ExportConfig(pairs=pairs))
    return MetricsText()(bounded)[openmetrics].decode("utf-8")


def series(shown: Snapshot, *, pairs: int = 20, openmetrics: bool = False) -> Series:
    """Return the parsed samples: values by name and labels."""
    text = exposition(shown, pairs=pairs, openmetrics=openmetrics)
    families = parse_openmetrics(text) if openmetrics else parse_text(text)  # type: ignore[no-untyped-call]  # untyped
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("samepage_")
    }


def of(found: Series, name: str) -> Mapping[tuple[str, ...], float]:
    """Return the values of the series `name` by label values, in the order of the label names."""
    return {tuple(value for _, value in sorted(key[1])): found[key] for key in found if key[0] == f"samepage_{name}"}


def domains_in(found: Series) -> set[str]:
    return {value for _, labels in found for label, value in labels if label in ("domain", "domain_a", "domain_b")}


def test_only_health_before_first_scan() -> None:
    found = series(Snapshot(config=ConfigStatus(last_load_successful=False, loaded_at=STARTED)))

    assert {name for name, _ in found} == {
        "samepage_build_info",
        "samepage_journal_open_entries",
        "samepage_libvirt_up",
        "samepage_config_last_reload_successful",
        "samepage_config_last_reload_success_timestamp_seconds",
    }
    assert of(found, "libvirt_up") == {(): 0}
    assert of(found, "config_last_reload_successful") == {(): 0}
    assert of(found, "config_last_reload_success_timestamp_seconds") == {(): STARTED}


def test_memory_states_sum_to_guest_memory() -> None:
    found = series(snapshot(host_scan("a", "b")))
    memory = of(found, "domain_memory_bytes")

    page = 4096
    assert {state: memory["a", state] for _, state in memory} == {
        "absent": 100 * page,
        "swapped": 10 * page,
        "zero": 200 * page,
        "distinct": 600 * page,
        "duplicate": 90 * page,
    }
    assert sum(memory.values()) == 2 * 1000 * page
    host = of(found, "host_memory_bytes")
    assert host == {(state,): 2 * memory["a", state] for (state,) in host}


def test_sharing_by_domain_group_pair_host() -> None:
    scan = host_scan("a", "b", groups=(GroupSharing("tenant", 180, 40),), pairs=(PairSharing(("a", "b"), 40),))
    found = series(snapshot(scan))

    page = 4096
    assert of(found, "domain_self_sharing_bytes") == {("a",): 90 * page, ("b",): 90 * page}
    assert of(found, "domain_shared_with_others_bytes") == {("a",): 50 * page, ("b",): 50 * page}
    assert of(found, "group_self_sharing_bytes") == {("tenant",): 180 * page}
    assert of(found, "group_inter_sharing_bytes") == {("tenant",): 40 * page}
    assert of(found, "pair_inter_sharing_bytes") == {("a", "b"): 40 * page}
    assert of(found, "host_self_sharing_bytes") == {(): 180 * page}
    assert of(found, "host_inter_sharing_bytes") == {(): 40 * page}
    assert of(found, "host_sharing_ratio") == {(): 220 / 2000}


def test_stable_sharing_series() -> None:
    found = series(snapshot(host_scan("old", "new", stable=stable_report("old"))))

    page = 4096
    assert of(found, "host_stable_self_sharing_bytes") == {(): 45 * page}
    assert of(found, "host_stable_inter_sharing_bytes") == {(): 7 * page}
    assert of(found, "domain_stable_self_sharing_bytes") == {("old",): 45 * page}


def test_unknown_stable_sharing_has_no_series() -> None:
    assert [name for name, _ in series(snapshot(host_scan("a"))) if "stable" in name] == []


def test_page_size_sharing_is_in_bytes() -> None:
    further = (PageSizeSharing(8192, 1000, 150, 60, 10), PageSizeSharing(2 << 20, 3, 0, 1, 0))
    found = series(snapshot(host_scan("a", "b", page_sizes=further)))

    own, inter = of(found, "page_size_self_sharing_bytes"), of(found, "page_size_inter_sharing_bytes")
    assert own == {("4096",): 180 * 4096, ("8192",): 60 * 8192, ("2097152",): 2 << 20}
    assert inter == {("4096",): 40 * 4096, ("8192",): 10 * 8192, ("2097152",): 0}
    assert (own["4096",], inter["4096",]) == (
        of(found, "host_self_sharing_bytes")[()],
        of(found, "host_inter_sharing_bytes")[()],
    )


def test_fallback_series_per_domain() -> None:
    found = series(snapshot(host_scan("a", "b", fallbacks={"b": ("vfio", "a device is passed through")})))

    assert of(found, "domain_fallback_info") == {("b", "vfio"): 1}


def test_device_writes_are_one_or_zero() -> None:
    found = series(snapshot(host_scan("a", "b", devices=frozenset({"b"}))))

    assert of(found, "domain_device_writes") == {("a",): 0, ("b",): 1}


def test_empty_host_has_no_sharing_ratio() -> None:
    found = series(snapshot(host_scan()))

    assert of(found, "host_sharing_ratio") == {}
    assert set(of(found, "host_memory_bytes").values()) == {0}


def test_scan_info_has_mode_and_reader() -> None:
    found = series(snapshot(host_scan("a"), domains=("a",)))

    assert of(found, "domain_scan_duration_seconds") == {("a",): 1.5}
    assert of(found, "domain_last_pause_seconds") == {("a",): 0.03125}
    assert of(found, "domain_read_bytes") == {("a",): 4096 * 700}
    assert of(found, "domain_last_scan_success_timestamp_seconds") == {("a",): STARTED + 2}
    assert of(found, "scan_failures_total") == {("a", "read"): 3}
    labels = dict(next(labels for name, labels in found if name == "samepage_domain_info"))
    assert (labels["domain"], labels["group"], labels["mode"], labels["reader"]) == (
        "a",
        "tenant",
        "snapshot",
        "process",
    )


def test_histograms_are_cumulative() -> None:
    found = series(snapshot(host_scan("a"), domains=("a",)))

    assert of(found, "scan_duration_seconds_bucket") == {("0.5",): 1, ("1.0",): 1, ("5.0",): 2, ("+Inf",): 2}
    assert of(found, "scan_duration_seconds_sum") == {(): 2.75}
    assert of(found, "scan_duration_seconds_count") == {(): 2}
    assert of(found, "pause_duration_seconds_bucket") == {("a", "0.01"): 0, ("a", "0.1"): 1, ("a", "+Inf"): 1}
    assert of(found, "pause_duration_seconds_count") == {("a",): 1}


def test_a_histogram_without_observations_counts_none() -> None:
    shown = dataclasses.replace(snapshot(), scan_durations=Histogram((0.5,)))

    assert of(series(shown), "scan_duration_seconds_bucket") == {("0.5",): 0, ("+Inf",): 0}


def test_last_scan_has_time_and_domains() -> None:
    skipped = (SkippedGuest("c", Reason.NO_PID, "no pid"), SkippedGuest("d", Reason.IN_JOB, "busy"))
    found = series(snapshot(host_scan("a", "b", "e", skipped=skipped)))

    assert of(found, "last_scan_timestamp_seconds") == {(): STARTED + 2.5}
    assert of(found, "domains") == {("scanned",): 3, ("skipped",): 2}


def test_carried_over_guest_counts_as_skipped() -> None:
    found = series(snapshot(host_scan("a", "b", skipped=(SkippedGuest("b", Reason.IN_JOB, "busy"),))))

    assert of(found, "domains") == {("scanned",): 1, ("skipped",): 1}
    assert ("b",) in of(found, "domain_self_sharing_bytes")


def test_pair_limit_changes_between_scrapes() -> None:
    store = SnapshotStore(snapshot(host_scan("a", "b", pairs=(PairSharing(("a", "b"), 40),))))
    text = MetricsText()
    store.update(lambda shown: dataclasses.replace(shown, export_config=ExportConfig(pairs=0)))
    assert b"pair_inter" not in text(store.snapshot)[0]
    store.update(lambda shown: dataclasses.replace(shown, export_config=ExportConfig(pairs=1)))
    assert b"pair_inter" in text(store.snapshot)[0]


def test_only_largest_pairs_are_exported() -> None:
    pairs = tuple(PairSharing((f"a{n}", f"b{n}"), n) for n in (3, 50, 7, 20, 1))
    found = series(snapshot(host_scan("a0", pairs=pairs)), pairs=2)

    assert of(found, "pair_inter_sharing_bytes") == {("a50", "b50"): 50 * 4096, ("a20", "b20"): 20 * 4096}


def test_running_guests_have_paused_series() -> None:
    found = series(full_snapshot())
    assert of(found, "domain_paused_seconds_total") == {("web-1",): 1.5, ("web-2",): 0.25}
    assert of(found, "domain_paused_ratio") == {("web-1",): 0.0004, ("web-2",): 0.00002}
    assert of(found, "config_max_drift_ratio") == {(): 0.0005}
    assert of(series(full_snapshot().without(guest_id("web-1"))), "domain_paused_ratio") == {("web-2",): 0.00002}


def test_departed_domain_has_no_series() -> None:
    scan = host_scan(
        "a",
        "b",
        pairs=(PairSharing(("a", "b"), 40),),
        stable=stable_report("a", "b"),
        page_sizes=(PageSizeSharing(8192, 1000, 150, 60, 10),),
        fallbacks={"b": ("kernel", "no soft-dirty bits")},
    )
    store = SnapshotStore(snapshot(scan, domains=("a", "b")))
    before = series(store.snapshot)
    store.remove(guest_id("b"))
    after = series(store.snapshot)

    assert domains_in(before) == {"a", "b"}
    assert domains_in(after) == {"a"}
    assert {name for name, _ in before} - {name for name, _ in after} == {
        "samepage_pair_inter_sharing_bytes",
        "samepage_domain_fallback_info",
    }
    for total in (
        "host_memory_bytes",
        "host_sharing_ratio",
        "host_inter_sharing_bytes",
        "group_self_sharing_bytes",
        "host_stable_self_sharing_bytes",
        "host_stable_inter_sharing_bytes",
        "page_size_self_sharing_bytes",
        "page_size_inter_sharing_bytes",
    ):
        assert of(after, total) == of(before, total)
    assert of(after, "domains") == {("scanned",): 1, ("skipped",): 0}


def test_scrape_shows_one_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SnapshotStore(snapshot(host_scan("old"), domains=("old",)))
    made: list[Family] = []
    family = Metric.family

    def overtaken(metric: Metric[Any, Any], shown: Snapshot) -> Family | None:
        found = family(metric, shown)
        if found is not None:
            made.append(found)
        store.update(lambda _: snapshot(host_scan("new"), domains=("new",)))
        return found

    monkeypatch.setattr(Metric, "family", overtaken)
    MetricsText()(store.snapshot)

    shown = {sample.labels["domain"] for family in made for sample in family.samples if "domain" in sample.labels}
    assert shown == {"old"}


def test_families_are_shared_between_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Counter[str] = Counter()
    family = Metric.family

    def counted(metric: Metric[Any, Any], shown: Snapshot) -> Family | None:
        made[metric.name] += 1
        return family(metric, shown)

    monkeypatch.setattr(Metric, "family", counted)
    text, shown = MetricsText(), full_snapshot()
    for _ in range(3):
        old, new = (body.decode() for body in text(shown))
        assert "samepage_host_self_sharing_bytes" in old
        assert "samepage_host_self_sharing_bytes" in new
    assert set(made.values()) == {1}
    text(dataclasses.replace(shown, libvirt_up=False))
    assert set(made.values()) == {2}


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])
@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_awkward_names_survive_exposition(name: str, openmetrics: bool) -> None:  # noqa: FBT001 - pytest
    scan = host_scan(
        name,
        groups=(GroupSharing(name, 1, 2),),
        pairs=(PairSharing((name, "other"), 5),),
        stable=stable_report(name),
        fallbacks={name: ("layout", "not found")},
    )
    found = series(snapshot(scan, domains=(name,)), openmetrics=openmetrics)

    arrived = name.replace("\udcff", "\\udcff")
    assert domains_in(found) == {arrived, "other"}
    assert of(found, "domain_self_sharing_bytes") == {(arrived,): 90 * 4096}
    assert of(found, "group_inter_sharing_bytes") == {(arrived,): 2 * 4096}
    assert of(found, "domain_stable_self_sharing_bytes") == {(arrived,): 45 * 4096}
    assert of(found, "domain_fallback_info") == {(arrived, "layout"): 1}


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=12))
def test_any_name_reaches_the_scraper(name: str) -> None:
    found = series(snapshot(host_scan(name), domains=(name,)))

    assert of(found, "domain_read_bytes") == {(valid(name),): 4096 * 700}


def test_text_and_openmetrics_are_equal() -> None:
    assert series(full_snapshot()) == series(full_snapshot(), openmetrics=True)


def test_series_are_unique() -> None:
    lines = exposition(full_snapshot()).splitlines()
    given_series = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]

    assert len(given_series) == len(set(given_series))


def test_process_metrics_are_exported() -> None:
    names = {family.name for family in parse_text(exposition(snapshot()))}

    assert {"process_resident_memory_bytes", "process_open_fds", "python_gc_collections"} <= names


def test_series_grow_linearly_with_guests() -> None:
    def lines(guests: int) -> int:
        names = tuple(f"guest-{n:03}" for n in range(guests))
        pairs = tuple(PairSharing((a, b), 1) for a in names for b in names if a < b)
        return exposition(snapshot(host_scan(*names, pairs=pairs), domains=names)).count("\n")

    assert lines(200) - lines(150) == lines(150) - lines(100)


def largest() -> HostScan:
    return host_scan(
        *AWKWARD_NAMES,
        pairs=(PairSharing((AWKWARD_NAMES[0], AWKWARD_NAMES[4]), 1),),
        stable=stable_report(*AWKWARD_NAMES),
        fallbacks=dict.fromkeys(AWKWARD_NAMES, ("busy", "too busy")),
    )


@pytest.mark.parametrize(
    "shown",
    [
        full_snapshot(),
        snapshot(largest(), domains=AWKWARD_NAMES),
        Snapshot(config=ConfigStatus(last_load_successful=True, loaded_at=0)),
    ],
    ids=["full", "awkward names", "before the first scan"],
)
def test_promtool_accepts_the_metrics(shown: Snapshot) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: it is in the package prometheus")
    text = exposition(shown).encode("utf-8")
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
