"""Tests of the doctor's checks of files, directories and addresses."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samepaged.config import Config, ExportConfig
from samepaged.doctor import network as network_module
from samepaged.doctor.check import Status, worst
from samepaged.doctor.network import (
    Address,
    Listener,
    conflicting_listener,
    listen_address,
    network,
    parse_listeners,
    web_configuration,
)
from samepaged.doctor.storage import (
    DirectoryState,
    SeedFileState,
    configuration,
    directory_state,
    journal,
    read_configuration,
    runtime_directory,
    seed,
    state_directory,
    storage,
    traces,
)
from samepaged.errors import ConfigError, Fault
from samepaged.guard.journal import Entry, JournalError, OpenEntry
from samepaged.procfs import boot_id
from samepaged.web.config_file import LoadedConfig
from samepaged.web.config_schema import WebConfig

HERE = Path("/run/samepaged")
GOOD = DirectoryState(HERE, exists=True, writable=True, creatable=False, free_bytes=1 << 30, readable_by_others=False)
SHUT = DirectoryState(HERE, exists=True, writable=False, creatable=False, free_bytes=1 << 30, readable_by_others=False)
MISSING = DirectoryState(
    HERE, exists=False, writable=False, creatable=False, free_bytes=1 << 30, readable_by_others=False
)
TO_MAKE = DirectoryState(
    HERE, exists=False, writable=False, creatable=True, free_bytes=1 << 30, readable_by_others=False
)
FULL = DirectoryState(HERE, exists=True, writable=True, creatable=False, free_bytes=0, readable_by_others=False)
OPEN = DirectoryState(HERE, exists=True, writable=True, creatable=False, free_bytes=None, readable_by_others=True)
ELSEWHERE = DirectoryState(
    Path("/run/user/7/samepaged"),
    exists=True,
    writable=True,
    creatable=False,
    free_bytes=None,
    readable_by_others=False,
)


@pytest.mark.parametrize(
    ("directory", "seeded", "status"),
    [
        (GOOD, False, "ok"),
        (TO_MAKE, False, "ok"),
        (SHUT, False, "warning"),
        (SHUT, True, "ok"),
        (MISSING, False, "warning"),
        (FULL, False, "warning"),
        (FULL, True, "ok"),
    ],
)
def test_unusable_state_directory_is_a_warning(
    directory: DirectoryState,
    seeded: bool,  # noqa: FBT001 - a case
    status: str,
) -> None:
    check = state_directory(directory, "someone", seeded=seeded)
    assert check.status == status
    assert (check.remedy is None) == (status == "ok")


@pytest.mark.parametrize(
    ("candidates", "status"),
    [
        ([GOOD, ELSEWHERE], "ok"),
        ([TO_MAKE], "ok"),
        ([SHUT, ELSEWHERE], "warning"),
        ([SHUT, MISSING], "failure"),
        ([FULL], "failure"),
        ([OPEN], "warning"),
    ],
)
def test_unusable_runtime_directory_is_a_failure(candidates: list[DirectoryState], status: str) -> None:
    assert runtime_directory(candidates, "someone").status == status


@pytest.mark.parametrize(
    ("directory", "status"),
    [(GOOD, "ok"), (TO_MAKE, "ok"), (SHUT, "warning"), (MISSING, "warning"), (FULL, "warning"), (OPEN, "warning")],
)
def test_enabled_traces_need_a_directory(directory: DirectoryState, status: str) -> None:
    check = traces(directory, "samepaged", installed=True)
    assert check.status == Status(status)
    assert bool(check.remedy) == (status != "ok")


def test_enabled_traces_need_duckdb() -> None:
    check = traces(GOOD, "samepaged", installed=False)
    assert check.status is Status.FAILURE
    assert "pip install 'samepaged[traces]'" in str(check.remedy)


def test_existing_directory_keeps_its_owner() -> None:
    assert "install" not in str(runtime_directory([SHUT], "someone").remedy)
    assert "install -d -m 700 -o someone /run/samepaged" in str(runtime_directory([MISSING], "someone").remedy)


@pytest.mark.parametrize(
    ("file", "status"),
    [
        (SeedFileState(HERE, exists=False, readable_by_others=False, error=None), "ok"),
        (SeedFileState(HERE, exists=True, readable_by_others=False, error=None), "ok"),
        (SeedFileState(HERE, exists=True, readable_by_others=True, error=None), "warning"),
        (SeedFileState(HERE, exists=True, readable_by_others=False, error=PermissionError(13, "denied")), "warning"),
        (
            SeedFileState(
                HERE, exists=True, readable_by_others=False, error=ConfigError(Fault("holds no seed", "remove it"))
            ),
            "failure",
        ),
    ],
)
def test_seed_file_is_private_and_valid(file: SeedFileState, status: str) -> None:
    assert seed(file, seeded=False).status == status
    assert seed(file, seeded=True).status is Status.OK


ENTRY = Entry("qemu:///system", "0" * 32, 3, "web\n1", "boot")


def test_open_journal_entry_is_a_failure() -> None:
    (check,) = journal([OpenEntry(HERE, ENTRY, 0.0)], [])
    assert (check.status, str(check.remedy)[:17]) == ("failure", "samepaged recover")
    assert "\n" not in check.message
    assert [one.status for one in journal([], [])] == ["ok"]
    assert [one.status for one in journal([JournalError("it is odd", "remove it")], [HERE])] == ["warning", "warning"]


def test_configuration_problems_are_failures() -> None:
    first, second = configuration(
        HERE, [Fault("f:1:1: a", "b"), Fault("f:2:1: c")], readable_by_others=False, other_file=False
    )
    assert (first.status, first.message, first.remedy) == ("failure", "f:1:1: a", "b")
    assert second.remedy is not None


def test_default_configuration_is_named() -> None:
    (check,) = configuration(None, [], readable_by_others=False, other_file=True)
    assert (check.status, check.remedy) == ("warning", "samepaged doctor --config /etc/samepaged/config.yaml")
    assert [one.status for one in configuration(None, [], readable_by_others=False, other_file=False)] == ["ok"]


def test_readable_seed_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "with a space.yaml"
    path.write_text("hashing: {seed: 7}")
    path.chmod(0o644)
    _, (check,) = read_configuration(path)
    assert (check.status, check.remedy) == ("warning", f"chmod o= '{path}'")
    path.chmod(0o640)
    config, (check,) = read_configuration(path)
    assert (check.status, config.hashing.seed) == (Status.OK, 7)


def test_invalid_configuration_uses_defaults(tmp_path: Path) -> None:
    config, checks = read_configuration(tmp_path / "none.yaml")
    assert (worst(checks), config) == (Status.FAILURE, Config())


def test_directory_check_creates_nothing(tmp_path: Path) -> None:
    assert directory_state(tmp_path / "a" / "b").creatable
    assert not (tmp_path / "a").exists()
    found = directory_state(tmp_path)
    assert (found.exists, found.writable) == (True, True)
    assert found.free_bytes is not None
    file = tmp_path / "file"
    file.touch()
    assert not directory_state(file).writable
    assert not directory_state(file / "below").creatable


def test_orphaned_journal_is_read_only(tmp_path: Path) -> None:
    config = Config(state_directory=tmp_path / "state", runtime_directory=tmp_path)
    entry = Entry("qemu:///system", "0" * 32, 3, "web-1", boot_id())
    file = tmp_path / "suspended-999999999-1"
    file.write_bytes(entry.line())
    checks = {check.name: check for check in storage(config, "someone")}
    assert (checks["journal"].status, "'web-1'" in checks["journal"].message) == ("failure", True)
    assert file.read_bytes() == entry.line()
    assert not (tmp_path / "state").exists()


LOCAL = Address("127.0.0.1:9953", 9953, loopback=True, bind_error=None, listener=Listener.NONE)
WIDE = Address("0.0.0.0:9953", 9953, loopback=False, bind_error=None, listener=Listener.NONE)


@pytest.mark.parametrize(
    ("address", "encrypted", "statuses"),
    [
        (LOCAL, False, ["ok"]),
        (WIDE, False, ["warning"]),
        (WIDE, True, ["ok"]),
        (Address("h:1", 1, loopback=True, bind_error="no", listener=Listener.NONE), False, ["failure"]),
        (Address("h:1", 1, loopback=False, bind_error="no", listener=Listener.NONE), False, ["failure"]),
        (Address("h:80", 80, loopback=True, bind_error=None, listener=Listener.NONE), False, ["failure"]),
        (
            Address("h:80", 80, loopback=True, bind_error=None, listener=Listener.NONE, min_unprivileged_port=80),
            False,
            ["ok"],
        ),
        (Address("h:0", 0, loopback=True, bind_error=None, listener=Listener.NONE), False, ["ok"]),
        (Address("h:9", 9953, loopback=True, bind_error=None, listener=Listener.SAMEPAGED), False, ["ok"]),
        (Address("h:9", 9953, loopback=True, bind_error=None, listener=Listener.OTHER), False, ["failure"]),
        (Address("h:9", 9953, loopback=True, bind_error=None, listener=Listener.UNKNOWN), False, ["warning"]),
        (Address("h:9", 9953, loopback=False, bind_error=None, listener=Listener.OTHER), False, ["failure", "warning"]),
    ],
)
def test_listen_address_is_free_and_private(
    address: Address,
    encrypted: bool,  # noqa: FBT001 - a case
    statuses: list[str],
) -> None:
    assert [check.status for check in listen_address(address, set(), encrypted=encrypted)] == statuses


def test_low_port_with_capability_is_ok() -> None:
    low = Address("h:80", 80, loopback=True, bind_error=None, listener=Listener.NONE)
    assert [check.status for check in listen_address(low, {"CAP_NET_BIND_SERVICE"}, encrypted=False)] == ["ok"]


ANY = "0.0.0.0"  # noqa: S104 - nothing is bound to it
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:26E1 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 0100007F:1F90 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 100 0 0 10 0
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000001000000:26E1 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 000080FE00000000FF00FE0001000002:1388 00000000000000000000000000000000:0000 0A 00000000:00000000
"""


def test_listening_sockets_are_parsed() -> None:
    assert parse_listeners(TCP) == {("127.0.0.1", 9953), (ANY, 22)}
    assert parse_listeners(TCP6) == {("::1", 9953), ("fe80::fe:ff:200:1", 5000)}
    assert parse_listeners("") == set()


@pytest.mark.parametrize(
    ("ip", "port", "holder"),
    [
        ("127.0.0.1", 9953, "127.0.0.1"),
        ("127.0.0.2", 9953, None),
        (ANY, 9953, "127.0.0.1"),
        ("127.0.0.1", 22, ANY),
        ("::1", 22, ANY),
        ("127.0.0.1", 80, None),
        ("fe80::1%eth0", 9953, None),
    ],
)
def test_wildcard_and_single_address_conflict(ip: str, port: int, holder: str | None) -> None:
    assert conflicting_listener(ip, port, parse_listeners(TCP)) == holder


@given(st.text(alphabet="0123456789ABCDEF: \n", max_size=200))
@example(TCP.partition("\n")[2])
def test_arbitrary_socket_table_is_parsed(text: str) -> None:
    try:
        found = parse_listeners("header\n" + text)
    except ValueError:
        assert not TCP.endswith("\n" + text)
        return
    assert all(port >= 0 for _, port in found)


def test_foreign_listener_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts connections without a response
        at = f"127.0.0.1:{server.getsockname()[1]}"
        (check,) = network(ExportConfig(listen=at), set())
    assert (check.status, "a program listens on" in check.message) == ("warning", True)
    (check,) = network(ExportConfig(listen=at), set())
    assert check.status == "ok"


def test_foreign_address_is_a_failure() -> None:
    (check,) = network(ExportConfig(listen="203.0.113.77:9953"), set())
    assert (check.status, "127.0.0.1" in str(check.remedy)) == ("failure", True)


def test_web_configuration_is_described(tmp_path: Path) -> None:
    assert web_configuration(None, None) == []
    bad = tmp_path / "web.yaml"
    bad.write_text("nonsense: 1")
    first, second = network(ExportConfig(listen="0.0.0.0:0", web_config_file=bad), set())
    assert [first.status, second.status] == ["warning", "failure"]
    assert second.remedy is not None
    bad.write_text("{}")
    _, check = network(ExportConfig(listen="127.0.0.1:0", web_config_file=bad), set())
    assert (check.status, "without TLS and passwords" in check.message) == ("ok", True)


def test_tls_address_may_be_public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = LoadedConfig(WebConfig(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    monkeypatch.setattr(network_module, "load", lambda *_: loaded)
    checks = network(ExportConfig(listen="0.0.0.0:0", web_config_file=tmp_path / "web.yaml"), set())
    assert [check.status for check in checks] == ["ok", "ok"]
    assert "TLS" in checks[1].message
