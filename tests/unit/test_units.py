"""Tests of the files in systemd/: the grants of the polkit rule, and the dependencies between the units."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SYSTEMD = Path(__file__).parents[2] / "systemd"

# The objects that polkitd offers to a rule (polkit(8)), as far as ours asks for it.
POLKIT = """
var rules = [];
var polkit = {
    Result: { NO: "no", YES: "yes", NOT_HANDLED: "not handled" },
    addRule: function(rule) { rules.push(rule); }
};
function ask(id, details, subject) {
    return rules[0]({ id: id, lookup: function(key) { return details[key]; } }, subject);
}
"""
# Duktape's flags (duktape.h): evaluate, catch errors, keep no source, name no file.
EVALUATE = 1 << 3 | 1 << 7 | 1 << 9 | 1 << 11


class Duktape:
    """The engine in which Debian's and Ubuntu's polkitd evaluates rules."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)
        self._library.duk_create_heap.restype = ctypes.c_void_p
        self._library.duk_create_heap.argtypes = [ctypes.c_void_p] * 5
        self._library.duk_eval_raw.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint]
        self._library.duk_safe_to_lstring.restype = ctypes.c_char_p
        self._library.duk_safe_to_lstring.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        self._library.duk_destroy_heap.argtypes = [ctypes.c_void_p]
        self._heap = self._library.duk_create_heap(None, None, None, None, None)

    def evaluate(self, source: str) -> str:
        """The value of the last expression, as a string."""
        text = source.encode()
        failed = self._library.duk_eval_raw(self._heap, text, len(text), EVALUATE)
        value: bytes = self._library.duk_safe_to_lstring(self._heap, -1, None)
        assert not failed, value
        return value.decode()

    def close(self) -> None:
        self._library.duk_destroy_heap(self._heap)


@pytest.fixture(scope="module")
def ask() -> Iterator[Callable[..., str]]:
    """Asks the rule: `ask("domain.read", user="samepaged", connect_driver="QEMU")`."""
    library = ctypes.util.find_library("duktape")
    if library is None:
        pytest.skip("Duktape, the engine of polkit's rules, is not installed")
    engine = Duktape(library)
    engine.evaluate(POLKIT)
    engine.evaluate((SYSTEMD / "samepaged.rules").read_text())

    def asked(action: str, user: str = "samepaged", driver: str | None = "QEMU") -> str:
        details = {} if driver is None else {"connect_driver": driver}
        return engine.evaluate(f"ask({json.dumps(action)}, {json.dumps(details)}, {json.dumps({'user': user})})")

    yield asked
    engine.close()


API = "org.libvirt.api."
GRANTED = {"connect.getattr", "connect.search-domains", "domain.getattr", "domain.read", "domain.suspend"}
# With each of these, a client of libvirt's is root, or an owner of guests.
DANGEROUS = """
    connect.write connect.pm-control connect.read domain.block-write domain.core-dump domain.delete domain.init-control
    domain.mem-read domain.migrate domain.open-device domain.read-secure domain.reset domain.save domain.screenshot
    domain.send-input domain.snapshot domain.start domain.stop domain.write network.write node-device.detach
    nwfilter.write secret.read-secure storage-pool.write storage-vol.data-write
""".split()  # noqa: SIM905 - a list of names reads better so


@pytest.mark.parametrize("right", sorted(GRANTED))
def test_polkit_grants_required_actions(ask: Callable[..., str], right: str) -> None:
    assert ask(API + right) == "yes"
    assert ask(API + right, driver="LXC") == "no"


@pytest.mark.parametrize("right", DANGEROUS)
def test_polkit_refuses_other_actions(ask: Callable[..., str], right: str) -> None:
    assert ask(API + right) == "no"


def test_polkit_covers_installed_actions(ask: Callable[..., str]) -> None:
    policy = Path("/usr/share/polkit-1/actions/org.libvirt.api.policy")
    if not policy.exists():
        pytest.skip("libvirt is not installed")
    known = [line.split('"')[1] for line in policy.read_text().splitlines() if "<action id=" in line]
    assert {action.removeprefix(API) for action in known if ask(action) == "yes"} == GRANTED
    assert {ask(action) for action in known} == {"yes", "no"}


def test_polkit_allows_libvirt_sockets(ask: Callable[..., str]) -> None:
    assert ask("org.libvirt.unix.manage", driver=None) == "yes"
    assert ask("org.libvirt.unix.monitor", driver=None) == "yes"


@pytest.mark.parametrize("user", ["root", "samepaged-web", "nobody", "samepaged2"])
def test_polkit_ignores_other_users(ask: Callable[..., str], user: str) -> None:
    assert ask("org.libvirt.unix.manage", user=user, driver=None) == "not handled"
    assert ask(API + "domain.suspend", user=user) == "not handled"


@pytest.mark.parametrize("action", ["org.freedesktop.systemd1.manage-units", "org.libvirtd.x", "x.org.libvirt.api.y"])
def test_polkit_ignores_other_services(ask: Callable[..., str], action: str) -> None:
    assert ask(action) == "not handled"


class Unit:
    """A unit file; a setting may be there more than once."""

    def __init__(self, name: str) -> None:
        self.lines = [line.partition("=") for line in (SYSTEMD / name).read_text().splitlines() if line[:1] != "#"]

    def all(self, key: str) -> list[str]:
        return [value for name, _, value in self.lines if name == key]

    def words(self, key: str) -> set[str]:
        return {word for value in self.all(key) for word in value.split()}


SCANNER, WEB = Unit("samepaged.service"), Unit("samepaged-web.service")


def test_units_separate_network_and_capabilities() -> None:
    assert SCANNER.words("RestrictAddressFamilies") == {"AF_UNIX"}
    assert WEB.all("CapabilityBoundingSet") == WEB.all("AmbientCapabilities") == [""]


def test_units_have_two_users() -> None:
    assert SCANNER.all("User") == ["samepaged"]
    assert WEB.all("User") == ["samepaged-web"]
    (scanner,), (web,) = SCANNER.all("ExecStart"), WEB.all("ExecStart")
    assert scanner.split()[-2:] == ["--web-socket", web.split()[-1]]
    assert Path(web.split()[-1]).parent == Path("/run") / WEB.all("RuntimeDirectory")[0]


def test_unit_recovers_at_start_and_stop() -> None:
    # A start does not wait for a QEMU that hangs: the service itself goes on with its entry.
    for key, wait in (("ExecStartPre", ["--wait", "10"]), ("ExecStopPost", ["--wait", "20"])):
        (line,) = SCANNER.all(key)
        assert line.removeprefix("-").split()[1:] == ["recover", *wait, "--config", "/etc/samepaged/config.yaml"]
    # A failed recover does not prevent a start, and the journal is there for the next.
    assert SCANNER.all("ExecStartPre")[0].startswith("-")
    assert SCANNER.all("RuntimeDirectoryPreserve") == ["yes"]


def test_stop_timeout_covers_the_guard() -> None:
    # The guard outlives a stop for as long as a QEMU hangs that may yet carry out a suspend call.
    assert SCANNER.all("KillMode") == ["process"]
    assert int(SCANNER.all("TimeoutStopSec")[0]) > 60


def test_stop_does_not_block_libvirt() -> None:
    # A unit is not started while one that is ordered after it is being stopped (systemd.unit(5), Before=).
    ordered = SCANNER.words("After") | WEB.words("After")
    assert {unit for unit in ordered if unit.startswith(("libvirtd", "virt"))} == set()


def test_neither_unit_dumps_core() -> None:
    assert SCANNER.all("LimitCORE") == WEB.all("LimitCORE") == ["0"]
