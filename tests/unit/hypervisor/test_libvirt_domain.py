"""The calls that a domain makes into libvirt, and their bounds in time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import libvirt
import libvirt_qemu
import pytest

from samepaged.errors import GuestError, Reason
from samepaged.hypervisor.libvirt_domain import PING_SECONDS, RESUME_SECONDS, SUSPEND_SECONDS, LibvirtDomain
from samepaged.hypervisor.protocol import ControlState, RunState

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
DEFAULT = -1.0


@dataclass
class Native:
    """A virDomain that notes the calls made; `answers` has their results."""

    answers: dict[str, Any] = field(default_factory=dict)
    made: list[tuple[Any, ...]] = field(default_factory=list)

    def name(self) -> str:
        return "web-1"

    def connect(self) -> Native:
        return self

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: object) -> Any:
            self.made.append((method, *arguments))
            answer = self.answers.get(method, 0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


@dataclass
class Scene:
    native: Native = field(default_factory=Native)
    bounds: list[tuple[str, float | None]] = field(default_factory=list)
    """What each call is named, and its bound in seconds."""

    def call(self, what: str, function: Callable[[], T], seconds: float | None = DEFAULT) -> T:
        self.bounds.append((what, seconds))
        return function()

    @property
    def domain(self) -> LibvirtDomain:
        return LibvirtDomain("qemu:///system", self.call, cast("libvirt.virDomain", self.native))


def test_only_dump_and_clock_are_unbounded() -> None:
    scene = Scene()
    scene.native.answers = {"jobInfo": [0], "state": [1, 0], "controlInfo": [0, 0, 0], "XMLDesc": ""}
    domain = scene.domain
    for method in (domain.suspend, domain.resume, domain.ping, domain.state, domain.control, domain.in_job, domain.xml):
        method()
    bounds = [seconds for _, seconds in scene.bounds]
    assert bounds == [SUSPEND_SECONDS, RESUME_SECONDS, PING_SECONDS, *[DEFAULT] * 4]
    scene.bounds.clear()
    domain.dump(Path("/run/samepaged/fifo"))
    domain.sync_time()
    assert scene.bounds == [("dumping domain 'web-1'", None), ("setting the clock of domain 'web-1'", None)]


def test_a_dump_has_memory_only() -> None:
    scene = Scene()
    scene.domain.dump(Path("/run/fifo"))
    raw, memory_only = libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, libvirt.VIR_DUMP_MEMORY_ONLY
    assert scene.native.made == [("coreDumpWithFormat", "/run/fifo", raw, memory_only)]


def test_agent_uses_the_hardware_clock() -> None:
    scene = Scene()
    scene.domain.sync_time()
    assert scene.native.made == [("setTime", {"seconds": 0, "nseconds": 0}, libvirt.VIR_DOMAIN_TIME_SYNC)]


def test_a_monitor_command_is_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def command(_domain: object, text: str, flags: int) -> str:
        asked.append((text, flags))
        return "VM status: running"

    monkeypatch.setattr(libvirt_qemu, "qemuMonitorCommand", command)
    assert Scene().domain.monitor_command("info status") == "VM status: running"
    assert asked == [("info status", libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)]


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ((libvirt.VIR_DOMAIN_RUNNING, 0), RunState.RUNNING),
        ((libvirt.VIR_DOMAIN_BLOCKED, 0), RunState.RUNNING),
        ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER), RunState.PAUSED),
        ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_UNKNOWN), RunState.PAUSED),
        ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION), RunState.PAUSED_OTHERWISE),
        ((libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_DUMP), RunState.PAUSED_OTHERWISE),
        ((libvirt.VIR_DOMAIN_CRASHED, 0), RunState.OTHER),
        ((libvirt.VIR_DOMAIN_SHUTDOWN, 0), RunState.OTHER),
    ],
)
def test_only_suspend_pauses_count_as_paused(answer: tuple[int, int], state: RunState) -> None:
    assert Scene(Native({"state": list(answer)})).domain.state() is state


@pytest.mark.parametrize(
    ("control", "state"),
    [
        (libvirt.VIR_DOMAIN_CONTROL_OK, (ControlState.READY, 0.0)),
        (libvirt.VIR_DOMAIN_CONTROL_JOB, (ControlState.JOB, 1.5)),
        (libvirt.VIR_DOMAIN_CONTROL_OCCUPIED, (ControlState.OCCUPIED, 1.5)),
        (libvirt.VIR_DOMAIN_CONTROL_ERROR, (ControlState.OCCUPIED, 1.5)),
    ],
)
def test_a_broken_monitor_counts_as_occupied(control: int, state: tuple[ControlState, float]) -> None:
    assert Scene(Native({"controlInfo": [control, 0, 1500]})).domain.control() == state


@pytest.mark.parametrize("reason", list(Reason))
def test_ping_fails_only_for_busy_monitor(reason: Reason) -> None:
    scene = Scene(Native({"domainListGetStats": GuestError(reason, "as the test says")}))
    if reason in {Reason.NO_ANSWER, Reason.IN_JOB, Reason.GONE, Reason.NOT_RUNNING}:
        with pytest.raises(GuestError):
            scene.domain.ping()
    else:
        scene.domain.ping()
