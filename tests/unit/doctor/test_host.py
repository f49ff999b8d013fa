"""Tests of the doctor's checks of the kernel, the process and its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.config import ScanConfig, SourcesConfig
from samepaged.doctor.attribution import attribution, btf_directory, sandbox
from samepaged.doctor.check import Check, Status, failure, from_error, ok, one_line, warning, worst
from samepaged.doctor.host import (
    HashingKernel,
    KsmState,
    hashing_kernel,
    huge_pages,
    ksm_check,
    pagemap,
    ptrace_scope,
    soft_dirty,
)
from samepaged.doctor.process import User, capabilities, core_dumps, locked_memory
from samepaged.errors import GuestError, Reason
from samepaged.memory.pagemap import PRESENT
from samepaged.privileges import PrivilegeError

if TYPE_CHECKING:
    from pathlib import Path

ALL = {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_DAC_OVERRIDE"}
AUTO = ScanConfig()
DUMP = ScanConfig(reader="dump")
SYSTEM = "qemu:///system"


def said(check: Check) -> str:
    """Return the status, and check that the check has a remedy unless the status is ok."""
    assert (check.remedy is None) == (check.status is Status.OK), check
    assert "\n" not in check.message
    return check.status.value


@pytest.mark.parametrize(
    ("text", "held", "reader", "status"),
    [
        (None, set(), "auto", "ok"),
        ("0", set(), "auto", "ok"),
        ("1", set(), "auto", "warning"),
        ("1", ALL, "auto", "ok"),
        ("2", ALL, "process", "ok"),
        ("2", set(), "process", "warning"),
        ("3", ALL, "auto", "failure"),
        ("3", ALL, "dump", "ok"),
        ("garbage", ALL, "auto", "failure"),
    ],
)
def test_ptrace_scope_by_capability(text: str | None, held: set[str], reader: str, status: str) -> None:
    assert said(ptrace_scope(text, held, reader)) == status


def test_hidden_pagemap_is_a_failure() -> None:
    assert said(pagemap(int(PRESENT), "auto")) == "ok"
    assert said(pagemap(0, "auto")) == "failure"
    denied = GuestError(Reason.NO_PERMISSION, "/proc/7/pagemap may not be read", "run as root")
    assert said(pagemap(denied, "auto")) == "failure"
    assert said(pagemap(denied, "dump")) == "ok"


@pytest.mark.parametrize(
    ("scan", "supported", "status"),
    [
        (AUTO, True, "ok"),
        (AUTO, False, "warning"),
        (ScanConfig(mode="precopy"), False, "warning"),
        (ScanConfig(mode="snapshot"), False, "ok"),
        (DUMP, False, "ok"),
    ],
)
def test_missing_soft_dirty_matters_for_precopy(
    scan: ScanConfig,
    supported: bool,  # noqa: FBT001 - a case
    status: str,
) -> None:
    assert said(soft_dirty(scan, supported=supported)) == status


STILL = ScanConfig(still_ksm=True)


@pytest.mark.parametrize(
    ("state", "scan", "status", "word"),
    [
        (KsmState(None, 0, writable=False, paused_by_samepaged=False), AUTO, "ok", "not available"),
        (KsmState("0", 0, writable=False, paused_by_samepaged=False), AUTO, "ok", "not running"),
        (
            KsmState("0", 0, writable=True, paused_by_samepaged=True),
            AUTO,
            "warning",
            "paused by a samepaged that ended",
        ),
        (KsmState("1", 512, writable=True, paused_by_samepaged=True), AUTO, "ok", "2.00 MiB merged"),
        (KsmState("1", 512, writable=False, paused_by_samepaged=False), AUTO, "ok", "reads pages again"),
        (KsmState("1", 512, writable=False, paused_by_samepaged=False), STILL, "warning", "may not write"),
        (KsmState("1", 512, writable=True, paused_by_samepaged=False), STILL, "ok", "paused for the seconds"),
        (
            KsmState("1", 512, writable=False, paused_by_samepaged=False),
            ScanConfig(mode="sliced", still_ksm=True),
            "ok",
            "running",
        ),
    ],
)
def test_ksm_state_is_explained(state: KsmState, scan: ScanConfig, status: str, word: str) -> None:
    check = ksm_check(state, scan, soft_dirty=True)
    assert (said(check), word in check.message) == (status, True)


def test_ksm_is_ok_without_soft_dirty() -> None:
    check = ksm_check(KsmState("1", 512, writable=False, paused_by_samepaged=False), STILL, soft_dirty=False)
    assert said(check) == "ok"
    assert "again" not in check.message


def test_huge_pages_matter_for_precopy() -> None:
    assert "2 MiB" in huge_pages("always [madvise] never", soft_dirty=True).message
    assert "2 MiB" not in huge_pages("[always] madvise never", soft_dirty=False).message
    for text in ("always madvise [never]", None, "nonsense"):
        assert "transparent huge pages are off" in huge_pages(text, soft_dirty=True).message


def test_hashing_in_python_is_a_warning() -> None:
    assert said(hashing_kernel(HashingKernel("native", 4))) == "ok"
    check = hashing_kernel(HashingKernel("python", 4))
    assert (said(check), "libxxhash-dev" in str(check.remedy)) == ("warning", True)


@pytest.mark.parametrize(
    ("held", "scan", "uri", "status"),
    [
        (ALL, AUTO, SYSTEM, "ok"),
        (ALL - {"CAP_DAC_OVERRIDE"}, AUTO, SYSTEM, "warning"),
        (ALL - {"CAP_DAC_OVERRIDE"}, ScanConfig(mode="sliced"), SYSTEM, "ok"),
        (ALL - {"CAP_DAC_READ_SEARCH"}, AUTO, SYSTEM, "failure"),
        (set(), AUTO, SYSTEM, "failure"),
        (set(), DUMP, SYSTEM, "ok"),
        (set(), AUTO, "qemu:///session", "ok"),
        (set(), AUTO, "qemu:///session?socket=/run/user/1000/libvirt/libvirt-sock", "ok"),
    ],
)
def test_needed_capabilities_are_checked(held: set[str], scan: ScanConfig, uri: str, status: str) -> None:
    check = capabilities(User("someone", held), scan, uri)
    assert said(check) == status
    if status == "failure":
        assert all(one in check.message for one in {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"} - held)


def test_locked_memory_limit_is_checked() -> None:
    assert said(locked_memory(None, 64, set())) == "ok"
    assert said(locked_memory(8 << 20, 3, set())) == "ok"
    assert said(locked_memory((8 << 20) - 1, 3, set())) == "warning"
    assert said(locked_memory(0, 3, {"CAP_IPC_LOCK"})) == "ok"


def test_core_dump_protection_failure() -> None:
    assert said(core_dumps(None)) == "ok"
    assert said(core_dumps(PrivilegeError("prctl(PR_SET_DUMPABLE) failed: Operation not permitted"))) == "failure"


@given(st.text(), st.none() | st.text())
def test_check_has_problem_and_remedy(problem: str, remedy: str | None) -> None:
    error = GuestError(Reason.LIBVIRT, problem, remedy)
    check = from_error("x", error, "nothing")
    assert str(error) == problem + ("" if remedy is None else f"; {remedy}")
    assert (check.message, check.remedy) == (one_line(problem), one_line(remedy or "nothing"))


def test_multiline_error_becomes_one_line() -> None:
    check = from_error("x", GuestError(Reason.LIBVIRT, "a\nb", "do\nthis"), "nothing")
    assert (check.message, check.remedy) == ("a b", "do this")
    assert from_error("x", GuestError(Reason.LIBVIRT, "a"), "that").remedy == "that"


def test_statuses_are_ordered() -> None:
    good, bad, worse = ok("x", "y"), warning("x", "y", "z"), failure("x", "y", "z")
    assert worst([]) is worst([good]) is Status.OK
    assert worst([good, bad, good]) is Status.WARNING
    assert worst([worse, bad, good]) is Status.FAILURE


@pytest.mark.parametrize(
    ("obstacle", "needed", "status"),
    [(None, True, "ok"), (None, False, "ok"), ("no library", True, "failure"), ("no library", False, "warning")],
)
def test_missing_seccomp_is_a_failure(
    obstacle: str | None,
    needed: bool,  # noqa: FBT001
    status: str,
) -> None:
    assert said(sandbox(obstacle, required=needed)) == status


def test_disabled_attribution_has_no_checks() -> None:
    assert attribution(SourcesConfig()) == []
    assert len(attribution(SourcesConfig(enabled=True))) == 1


def test_missing_btf_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "0123456789abcdef.btf").touch()
    there, nowhere = btf_directory(tmp_path), btf_directory(tmp_path / "nowhere")
    assert (said(there), said(nowhere)) == ("ok", "warning")
    assert "of 1 kernel" in there.message
    assert "No such file" in nowhere.message
    assert len(attribution(SourcesConfig(enabled=True, btf_directory=tmp_path))) == 2
