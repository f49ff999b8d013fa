"""Effects of `samepaged scan` on guests, and its messages if a scan is impossible."""

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.guests import Spec, in_a_job, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Samepaged
    from tests.support.guests import Writer


def test_every_guest_is_scanned_once_and_runs_on(samepaged: Samepaged, pair: list[Writer]) -> None:
    scan = samepaged.scan()
    assert [domain["name"] for domain in scan["domains"]] == [writer.name for writer in pair]
    for domain in scan["domains"]:
        assert domain["mode"] == "snapshot"
        assert domain["reader"] == "process"
        assert domain["pauses"] == 1
        assert 0 < domain["longest_pause_seconds"] == domain["pause_seconds"]
    assert scan["skipped"] == []


def test_the_table_names_each_guest_and_fits_80_columns(samepaged: Samepaged, pair: list[Writer]) -> None:
    done = samepaged("scan", "--connect", samepaged.uri)
    assert all(writer.name[-10:] in done.stdout for writer in pair)
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert done.stderr == ""


def test_only_the_named_domains_are_scanned(samepaged: Samepaged, pair: list[Writer]) -> None:
    _, b = pair
    assert [domain["name"] for domain in samepaged.scan(b.name)["domains"]] == [b.name]
    assert [domain["name"] for domain in samepaged.scan(b.domain.UUIDString())["domains"]] == [b.name]


def test_what_the_configuration_excludes_is_not_scanned_and_no_failure(
    samepaged: Samepaged, pair: list[Writer]
) -> None:
    a, b = pair
    samepaged.configure(f"guests: {{exclude: ['{b.name}']}}")
    scan = samepaged.scan()
    assert [domain["name"] for domain in scan["domains"]] == [a.name]
    assert [(skipped["name"], skipped["reason_code"]) for skipped in scan["skipped"]] == [(b.name, "excluded")]


def test_sharing_is_counted_within_groups_and_for_the_host(samepaged: Samepaged, pair: list[Writer]) -> None:
    a, b = pair
    together = samepaged.scan()
    assert together["groups"][0]["inter_sharing_pages"] == together["inter_sharing_pages"] > 0
    samepaged.configure(f"groups: [{{name: tenant, match: ['{b.name}']}}]")
    apart = samepaged.scan()
    assert {group["name"]: group["inter_sharing_pages"] for group in apart["groups"]} == {"default": 0, "tenant": 0}
    assert apart["inter_sharing_pages"] > 0
    assert {domain["name"]: domain["group"] for domain in apart["domains"]} == {a.name: "default", b.name: "tenant"}


@pytest.mark.leaves_paused
def test_a_guest_that_somebody_paused_is_scanned_and_stays_paused(samepaged: Samepaged, pair: list[Writer]) -> None:
    a, _ = pair
    a.domain.suspend()
    try:
        for reader in ("process", "dump"):
            (domain,) = samepaged.scan("--reader", reader, a.name)["domains"]
            assert domain["pauses"] == 0
            assert domain["distinct_pages"] > 0
            assert a.suspended
    finally:
        a.domain.resume()


def test_a_guest_in_a_job_is_left_alone_and_the_others_are_scanned(
    samepaged: Samepaged, pair: list[Writer], tmp_path: Path
) -> None:
    a, b = pair
    with in_a_job(a, tmp_path):
        scan = samepaged.scan(expect=1)
    assert [domain["name"] for domain in scan["domains"]] == [b.name]
    assert [(skipped["name"], skipped["reason_code"]) for skipped in scan["skipped"]] == [(a.name, "in_job")]


def test_a_guest_whose_qemu_is_killed_during_its_scan_fails_alone(
    samepaged: Samepaged, pair: list[Writer], connection: Any, root: Path
) -> None:
    with running(connection, root, Spec("samepaged-test-mortal")) as (mortal,), mortal.process() as process:

        def kill_as_soon_as_suspended() -> None:
            mortal.wait_until_suspended()
            process.kill()

        thread = threading.Thread(target=kill_as_soon_as_suspended)
        thread.start()
        scan = samepaged.scan(expect=1)
        thread.join()
    assert [domain["name"] for domain in scan["domains"]] == [writer.name for writer in pair]
    (skipped,) = scan["skipped"]
    assert skipped["name"] == "samepaged-test-mortal"
    # `no_answer`: a busy libvirtd notices QEMU's death later than a call into it may take.
    assert skipped["reason_code"] in {"gone", "not_running", "read", "suspend", "no_answer"}


NAMES = ['quo"te', "semi;co'lon", "ünïcødé-名", "<script>", "back\\slash", "{brace=}"]


def test_names_that_need_quoting_come_out_as_they_are(samepaged: Samepaged, connection: Any, root: Path) -> None:
    with running(connection, root, *(Spec(name, memory=84, cmdline="region=1") for name in NAMES[:3])):
        scan = samepaged.scan(*NAMES[:3])
        assert [domain["name"] for domain in scan["domains"]] == sorted(NAMES[:3])
        assert "名" in samepaged("scan", "--connect", samepaged.uri, *NAMES[:3]).stdout


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--connect", "qemu:///nonsense"], 3, "qemu:///nonsense"),
        (["--connect", "nonsense"], 3, "'nonsense'"),
        (["--connect", ""], 3, "use qemu:///system"),
        (["--connect", "test:///default"], 3, "use the QEMU driver"),
        (["--connect", "qemu+ssh://elsewhere/system"], 3, "run samepaged there"),
        (["--connect", "qemu:///system?socket=/nowhere/at-all"], 3, "check that libvirtd"),
        (["--config", "/nowhere/config.yaml"], 2, "/nowhere/config.yaml"),
        (["--mode", "magic"], 2, "invalid choice"),
    ],
)
def test_what_cannot_be_is_said_in_a_line_with_its_exit_status(
    samepaged: Samepaged, words: list[str], status: int, said: str
) -> None:
    done = samepaged("scan", *words, expect=status)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    if status == 3:
        assert len(done.stderr.splitlines()) == 1


def test_a_domain_that_does_not_exist_is_said_and_the_others_are_scanned(
    samepaged: Samepaged, pair: list[Writer]
) -> None:
    a, _ = pair
    done = samepaged("scan", "--connect", samepaged.uri, a.name, "nobody", expect=1)
    assert "domain 'nobody' does not exist" in done.stderr
    assert a.name in done.stdout


def as_nobody(command: list[str]) -> list[str]:
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]


def test_a_user_without_the_rights_is_told_which(samepaged: Samepaged, pair: list[Writer], libvirtd: Any) -> None:
    # the socket is root's alone
    done = subprocess.run(
        as_nobody(samepaged.command("scan", "--connect", samepaged.uri)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    if "No module named" in done.stderr or "Permission denied: '" in done.stderr:
        pytest.skip("the checkout is not readable by other users")
    assert done.returncode == 3
    assert "libvirt at" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_sliced_scan_pauses_often_and_sees_what_a_snapshot_sees(samepaged: Samepaged, pair: list[Writer]) -> None:
    a, _ = pair
    a.fill(0, 4096, 11, 512)
    samepaged.configure("scan: {max_pause: 8ms, max_duty: 0.5}")  # slices of 4 ms, shorter than the reading
    (sliced,) = samepaged.scan("--mode", "sliced", a.name)["domains"]
    (whole,) = samepaged.scan("--mode", "snapshot", a.name)["domains"]
    assert sliced["mode"] == "sliced"
    assert sliced["pauses"] > 1
    assert sliced["longest_pause_seconds"] < sliced["pause_seconds"]
    # the guest ran in between, and wrote a little
    assert abs(sliced["duplicate_pages"] - whole["duplicate_pages"]) < 100


def test_a_live_scan_never_pauses(samepaged: Samepaged, pair: list[Writer]) -> None:
    (domain,) = samepaged.scan("--mode", "live", pair[0].name)["domains"]
    assert (domain["mode"], domain["pauses"], domain["pause_seconds"]) == ("live", 0, 0)
    assert domain["distinct_pages"] > 0


def test_precopy_of_shared_memory_falls_back_and_says_so(samepaged: Samepaged, connection: Any, root: Path) -> None:
    backing = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
    with running(connection, root, Spec("samepaged-test-shared", memory_backing=backing)):
        (domain,) = samepaged.scan("--mode", "precopy", "samepaged-test-shared")["domains"]
    assert domain["mode"] == "snapshot"
    assert domain["fallback_code"] == "shared"
    assert "shared" in domain["fallback_reason"]


@pytest.mark.leaves_paused
def test_sharing_by_page_size_is_of_one_reading(samepaged: Samepaged, pair: list[Writer]) -> None:
    samepaged.configure("scan: {page_sizes: [1KiB, 2KiB, 8KiB, 2MiB]}")
    for writer in pair:
        writer.domain.suspend()
    try:
        by_process = samepaged.scan("--reader", "process")
        by_dump = samepaged.scan("--reader", "dump")
    finally:
        for writer in pair:
            writer.domain.resume()
    sizes = by_process["page_sizes"]
    assert sizes == by_dump["page_sizes"]
    assert sorted(one["page_size"] for one in sizes) == [1024, 2048, 4096, 8192, 2 << 20]
    # halves of shared pages are shared, too; so shared bytes fall as the page size grows, zeros aside
    shared = {one["page_size"]: (one["total_sharing_pages"] + one["zero_pages"]) * one["page_size"] for one in sizes}
    assert shared[1024] >= shared[2048] >= shared[4096] >= shared[8192] >= shared[2 << 20]


def test_a_guest_named_twice_is_scanned_once(samepaged: Samepaged, pair: list[Writer]) -> None:
    a, _ = pair
    assert len(samepaged.scan(a.name, a.domain.UUIDString(), a.name)["domains"]) == 1


def test_output_that_cannot_be_written_is_said_in_a_line(samepaged: Samepaged, pair: list[Writer]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            samepaged.command("scan", "--connect", samepaged.uri),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1
