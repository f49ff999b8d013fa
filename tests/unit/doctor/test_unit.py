"""Tests of the doctor's checks of systemd units and of libvirt."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from samepaged.config import ScanConfig
from samepaged.doctor import libvirtd
from samepaged.doctor.libvirtd import Access, connect, connection_checks
from samepaged.doctor.unit import UnitUser, parse_properties, scanner_unit, web_unit
from samepaged.errors import HypervisorError

if TYPE_CHECKING:
    from samepaged.doctor.check import Check

# As `systemctl show` prints it for the units as they are installed.
SHOWN = """\
LoadState=loaded
ActiveState=active
User=samepaged
AmbientCapabilities=cap_dac_override cap_dac_read_search cap_sys_ptrace
CapabilityBoundingSet=cap_dac_override cap_dac_read_search cap_sys_ptrace
LimitCORE=0
LimitMEMLOCK=infinity
PrivateUsers=no
"""
GOOD = parse_properties(SHOWN)
WEB = parse_properties(
    "LoadState=loaded\nActiveState=active\nUser=samepaged-web\nAmbientCapabilities=\nPrivateUsers=yes\n"
)
USER = UnitUser("samepaged", exists=True, in_group=True, allowed_by_polkit=True)
AUTO = ScanConfig(threads=3)


def statuses(checks: list[Check]) -> list[str]:
    assert all((check.remedy is None) == (check.status == "ok") for check in checks)
    return [str(check.status) for check in checks]


def test_installed_unit_is_ok() -> None:
    (check,) = scanner_unit(GOOD, USER, AUTO)
    assert check.status == "ok"
    assert "active" in check.message
    assert "CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE" in check.message
    assert statuses(web_unit(WEB, GOOD)) == ["ok"]


def test_missing_unit_is_a_warning() -> None:
    (check,) = scanner_unit(parse_properties("LoadState=not-found\nActiveState=inactive\n"), USER, AUTO)
    assert (check.status, "make install" in str(check.remedy)) == ("warning", True)
    assert web_unit({"LoadState": "not-found"}, GOOD) == []


ONLY_READING = "cap_dac_read_search cap_sys_ptrace"
DUMP = ScanConfig(reader="dump", threads=3)


@pytest.mark.parametrize(
    ("changed", "scan", "status", "remedy"),
    [
        ({"AmbientCapabilities": ""}, AUTO, "failure", "AmbientCapabilities=CAP_DAC_READ_SEARCH CAP_SYS_PTRACE"),
        ({"CapabilityBoundingSet": "cap_net_admin"}, AUTO, "failure", "CapabilityBoundingSet="),
        ({"AmbientCapabilities": ""}, DUMP, "ok", ""),
        ({"AmbientCapabilities": ONLY_READING}, AUTO, "warning", "CAP_DAC_OVERRIDE"),
        ({"AmbientCapabilities": ONLY_READING}, ScanConfig(mode="snapshot", threads=3), "ok", ""),
        ({"PrivateUsers": "yes"}, AUTO, "failure", "PrivateUsers=no"),
        ({"PrivateUsers": "yes"}, DUMP, "ok", ""),
        ({"LimitCORE": "infinity"}, AUTO, "warning", "LimitCORE=0"),
        ({"LimitMEMLOCK": "65536"}, AUTO, "warning", "LimitMEMLOCK=infinity"),
        ({"LimitMEMLOCK": str(8 << 20)}, AUTO, "ok", ""),
    ],
)
def test_unit_problems_have_remedies(changed: dict[str, str], scan: ScanConfig, status: str, remedy: str) -> None:
    (check,) = scanner_unit(GOOD | changed, USER, scan)
    assert (check.status, remedy in (check.remedy or "")) == (status, True)


def test_root_unit_is_a_warning() -> None:
    root = UnitUser("", exists=False, in_group=False, allowed_by_polkit=False)
    checks = scanner_unit(GOOD | {"User": "", "AmbientCapabilities": ""}, root, AUTO)
    assert statuses(checks) == ["warning"]
    checks = scanner_unit(GOOD | {"User": "", "CapabilityBoundingSet": ""}, root, AUTO)
    assert statuses(checks) == ["warning", "failure"]


def test_user_without_libvirt_access_fails() -> None:
    assert statuses(scanner_unit(GOOD, UnitUser("x", exists=False, in_group=False, allowed_by_polkit=False), AUTO)) == [
        "failure"
    ]
    (check,) = scanner_unit(GOOD, UnitUser("x", exists=True, in_group=False, allowed_by_polkit=False), AUTO)
    assert (check.status, "usermod --append --groups libvirt x" in str(check.remedy)) == ("failure", True)
    assert statuses(scanner_unit(GOOD, UnitUser("x", exists=True, in_group=False, allowed_by_polkit=True), AUTO)) == [
        "ok"
    ]


@pytest.mark.parametrize("changed", [{"User": ""}, {"User": "samepaged"}, {"AmbientCapabilities": "cap_sys_ptrace"}])
def test_privileged_web_unit_is_a_warning(changed: dict[str, str]) -> None:
    assert statuses(web_unit(WEB | changed, GOOD)) == ["warning"]


def test_arbitrary_systemctl_output_is_parsed() -> None:
    assert parse_properties("a=b=c\nnothing\n=x\n\nempty=") == {"a": "b=c", "": "x", "empty": ""}
    assert statuses(scanner_unit({}, USER, AUTO)) == ["warning"]


VERSIONS = ("9.0.0", "7.2.22")
URI = "qemu:///system"


def test_libvirt_versions_and_rights() -> None:
    assert statuses(connection_checks(Access(URI, VERSIONS, may_change=True), "someone")) == ["ok", "ok"]
    first, rights = connection_checks(Access(URI, VERSIONS, may_change=False), "someone")
    assert "QEMU 7.2.22" in first.message
    assert (rights.status, "as root" in str(rights.remedy)) == ("failure", True)


def test_read_only_refusal_is_quoted() -> None:
    error = HypervisorError("libvirt cannot be reached: authentication\nunavailable", "check")
    _, rights = connection_checks(Access(URI, VERSIONS, may_change=False, error=error), "someone")
    assert "authentication unavailable" in rights.message


def test_unreachable_libvirt_is_a_failure() -> None:
    error = HypervisorError("libvirt cannot be reached: no such file", "check that libvirtd runs")
    first, rest = connection_checks(Access(URI, None, may_change=False, error=error), "someone")
    assert (first.status, first.remedy) == ("failure", "check that libvirtd runs")
    assert (rest.status, "not checked" in rest.message) == ("warning", True)


class Connection:
    """A libvirt that accepts read-only connections, or none."""

    made: ClassVar[list[Connection]] = []

    def __init__(self, uri: str, *, read_only: bool = False) -> None:
        self.uri = uri
        self.read_only = read_only
        self.closed = False
        self.made.append(self)

    def connect(self) -> None:
        if self.uri == "nobody" or not self.read_only:
            raise HypervisorError("libvirt cannot be reached: authentication unavailable", "check")

    def versions(self) -> tuple[str, str]:
        return VERSIONS

    def close(self) -> None:
        self.closed = True


def test_read_only_user_connects_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirtd, "LibvirtHypervisor", Connection)
    with connect(URI) as (hypervisor, access):
        assert hypervisor is not None
        assert (access.versions, access.may_change) == (VERSIONS, False)
        assert "authentication unavailable" in str(access.error)
        assert not Connection.made[-1].closed
    assert Connection.made[-1].closed
    with connect("nobody") as (hypervisor, access):
        assert (hypervisor, access.versions) == (None, None)
