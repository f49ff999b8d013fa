"""The scanner's side of the guard, with a thread in the place of the guard's process."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from samepaged.errors import GuestError, Reason
from samepaged.guard import client as module
from samepaged.guard.client import GuardClient
from samepaged.guard.journal import Entry
from samepaged.ipc import Channel, ChannelClosed
from tests.support.hypervisor import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Answer = dict[str, Any] | None


class Guards:
    """The guards that a client starts; each answers as `answer` says, and ends when it raises Closed."""

    def __init__(self, client: GuardClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = client
        self.started = 0
        self.heard: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], Answer] = usual
        self.refusal: OSError | None = None
        self.threads: list[threading.Thread] = []
        monkeypatch.setattr(client, "start", self.start)

    def start(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.started += 1
        channel, other = Channel.pair()
        self.client._channel = channel
        thread = threading.Thread(target=self._run, args=(Channel(other),))
        self.threads.append(thread)
        thread.start()

    def _run(self, end: Channel) -> None:
        with contextlib.suppress(ChannelClosed):
            while True:
                message = end.receive(None)
                assert message is not None
                self.heard.append(message)
                answer = self.answer(message)
                if answer is not None:
                    end.send(**answer)
        end.close()


def usual(message: dict[str, Any]) -> Answer:
    if "arm" in message:
        return {"armed": message["arm"]}
    return {"disarmed": message["disarm"], "resumed": False} if "disarm" in message else None


@pytest.fixture
def guards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guards]:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(module, "SHORT_ANSWER_SECONDS", 0.3)
    found = Guards(GuardClient("qemu:///system", tmp_path), monkeypatch)
    yield found
    found.client.close()
    for thread in found.threads:
        thread.join(10)
        assert not thread.is_alive()


def arm(guards: Guards) -> None:
    guards.client.arm("web-1", UUID, 7, 1.25, dumping=False)


def entry(guards: Guards) -> bytes:
    (path,) = guards.client.directory.iterdir()
    return path.read_bytes()


def refused(guards: Guards) -> str:
    with pytest.raises(GuestError) as caught:
        arm(guards)
    assert caught.value.reason is Reason.NO_GUARD
    assert entry(guards) == b""  # the guest is not suspended
    return str(caught.value)


def test_the_entry_is_written_before_the_guard_is_asked(guards: Guards) -> None:
    noted: list[bytes] = []

    def answer(message: dict[str, Any]) -> Answer:
        noted.append(entry(guards))
        return usual(message)

    guards.answer = answer
    arm(guards)
    assert Entry.parse(noted[0]).name == "web-1"
    assert guards.heard[0]["seconds"] == 1.25
    assert guards.client.disarm() is False
    assert entry(guards) == b""


def test_one_guard_serves_all_pauses(guards: Guards) -> None:
    for _ in range(3):
        arm(guards)
        guards.client.suspended("web-1")
        guards.client.disarm()
    assert guards.started == 1


def test_a_guard_that_refuses_says_why(guards: Guards) -> None:
    guards.answer = lambda message: {"refused": message["arm"], "why": "libvirt is away"}
    assert "libvirt is away" in refused(guards)


def test_a_guard_that_died_is_replaced(guards: Guards) -> None:
    arm(guards)
    guards.client.disarm()

    def die_once(message: dict[str, Any]) -> Answer:
        guards.answer = usual
        raise ChannelClosed

    guards.answer = die_once
    arm(guards)
    assert guards.started == 2


def test_a_guard_that_dies_again_is_none(guards: Guards) -> None:
    def die(_: dict[str, Any]) -> Answer:
        raise ChannelClosed

    guards.answer = die
    assert "exits at once" in refused(guards)
    assert guards.started == 2


def test_a_guard_that_does_not_answer_is_none(guards: Guards) -> None:
    guards.answer = lambda _: None
    assert "does not respond" in refused(guards)
    guards.answer = usual
    arm(guards)
    assert guards.started == 2


def test_a_guard_that_cannot_be_started_is_none(guards: Guards) -> None:
    guards.refusal = OSError(11, "Resource temporarily unavailable")
    assert "temporarily unavailable" in refused(guards)


def test_a_guard_that_ended_before_the_pause_is_noticed(guards: Guards) -> None:
    arm(guards)

    def die(_: dict[str, Any]) -> Answer:
        raise ChannelClosed

    guards.answer = die
    with contextlib.suppress(GuestError):
        guards.client.suspended("web-1")
    guards.threads[0].join(10)
    with pytest.raises(GuestError) as caught:
        guards.client.suspended("web-1")
    assert caught.value.reason is Reason.NO_GUARD


def test_a_guard_that_resumed_the_guest_says_so(guards: Guards) -> None:
    arm(guards)
    guards.answer = lambda message: {"disarmed": message["disarm"], "resumed": True}
    assert guards.client.disarm() is True


def test_a_guard_that_hangs_at_the_end_is_abandoned(guards: Guards) -> None:
    arm(guards)
    guards.answer = lambda _: None
    assert guards.client.disarm() is False
    assert entry(guards) == b""
    guards.answer = usual
    arm(guards)
    assert guards.started == 2


def test_an_open_entry_is_handed_to_the_guard(guards: Guards) -> None:
    arm(guards)
    guards.client.dump_ended()
    guards.client.leave_open()
    arm(guards)  # the next guest
    left = guards.client.directory / f"{guards.client._journal.path.name}-1"
    assert Entry.parse(left.read_bytes()).name == "web-1"
    assert [message for message in guards.heard if "left_open" in message] == [{"left_open": 1, "path": str(left)}]
    assert {"dump_ended": 1} in guards.heard
    guards.client.disarm()
    assert left.exists()
