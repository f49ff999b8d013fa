"""Tests of the doctor's checks of leases (libvirt's qemu.conf) and network links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.doctor import leases
from samepaged.doctor.guests import link_check
from samepaged.doctor.leases import lease_check, lock_manager

PATH = Path("/etc/libvirt/qemu.conf")


@pytest.mark.parametrize(
    ("text", "manager"),
    [
        ("", None),
        ('#lock_manager = "lockd"\n', None),
        ('lock_manager = "lockd"\n', "lockd"),
        ("  lock_manager='sanlock' # comment", "sanlock"),
        ('lock_manager = """lockd"""', "lockd"),
        ('lock_manager = ""', None),
        ('lock_manager = "nop"', None),
        ('lock_manager = "lockd"\nlock_manager = "sanlock"', "lockd"),
        ('my_lock_manager = "lockd"', None),
        ("lock_manager = 1", None),
        ("lock_manager =", None),
        ('user = "lock_manager"', None),
        ('note = """\nlock_manager = \'lockd\'\n"""', None),
        ("note = 'lock_manager = \"lockd\"'", None),
        ('list = [ "a", # lock_manager = "lockd"\n "b" ]\nlock_manager = "sanlock"', "sanlock"),
    ],
)
def test_lock_manager_is_found(text: str, manager: str | None) -> None:
    assert lock_manager(text) == manager


PLAIN = st.text(alphabet="abc lock_manager=#[],", max_size=12)
SPACE = st.sampled_from(["", " ", "\t", "  "])
LINES = st.one_of(
    PLAIN.map(lambda text: f"# {text}"),
    st.just(""),
    st.tuples(st.sampled_from(["user", "vnc_listen", "x"]), SPACE, PLAIN).map(lambda it: f'{it[0]}{it[1]}= "{it[2]}"'),
    st.lists(PLAIN, max_size=3).map(lambda items: "cgroups = [\n" + ",\n".join(f"'{one}'" for one in items) + "\n]"),
    st.integers(0, 99).map(lambda number: f"max_files = {number}"),
)


@given(st.lists(LINES), st.lists(LINES), st.sampled_from(["lockd", "sanlock", None]), SPACE, st.sampled_from("\"'"))
def test_arbitrary_lock_manager_value_is_found(
    before: list[str], after: list[str], manager: str | None, space: str, quote: str
) -> None:
    setting = [] if manager is None else [f"{space}lock_manager{space}={space}{quote}{manager}{quote}"]
    assert lock_manager("\n".join([*before, *setting, *after])) == manager


@given(st.text())
def test_arbitrary_qemu_conf_is_read(text: str) -> None:
    found = lock_manager(text)
    assert found is None or found in text


def test_a_lock_manager_is_a_warning_with_a_remedy() -> None:
    check = lease_check(PATH, 'lock_manager = "sanlock"')
    assert (check.status, "sanlock" in check.message, str(PATH) in check.message) == ("warning", True, True)
    assert check.remedy


@pytest.mark.parametrize("text", [None, "", "#lock_manager"])
def test_no_lock_manager_is_ok(text: str | None) -> None:
    assert (lease_check(PATH, text).status, "does not set a lock manager" in lease_check(PATH, text).message) == (
        "ok",
        True,
    )


def test_an_unreadable_file_is_a_note() -> None:
    check = lease_check(PATH, PermissionError(13, "Permission denied"))
    assert (check.status, check.remedy, "not checked" in check.message) == ("ok", None, True)


def test_qemu_conf_path_by_uri(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    system, session = tmp_path / "system.conf", tmp_path / "libvirt/qemu.conf"
    session.parent.mkdir()
    session.write_text('lock_manager = "lockd"')
    monkeypatch.setattr(leases, "SYSTEM_FILE", system)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert [check.status for check in leases.leases("qemu:///system")] == ["ok"]
    assert [check.status for check in leases.leases("qemu:///session")] == ["warning"]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert [check.status for check in leases.leases("qemu:///session")] == ["ok"]
    system.mkdir()
    (check,) = leases.leases("qemu:///system")
    assert (check.status, "not checked" in check.message) == ("ok", True)


def test_an_interrupted_link_is_a_warning() -> None:
    check = link_check("web", ("bridge", "passthrough"))
    assert (check.status, check.domain, check.remedy is None) == ("warning", "web", False)
    assert "bridge, passthrough" in check.message
    assert "host's network device" in check.message
    assert "host's network device" not in link_check("web", ("bridge",)).message
