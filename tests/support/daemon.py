"""Running `samepaged run`: the process, its log and its metrics."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING

import libvirt
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.support.guests import Writer
    from tests.system.conftest import Samepaged


class Daemon:
    """A running `samepaged run`, its log and its metrics. `more` is added to its environment; `before` are words of a
    command that executes it in another setting.
    """

    def __init__(
        self,
        samepaged: Samepaged,
        notify: Path | None = None,
        *,
        more: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> None:
        self._log = samepaged.root / "daemon.log"
        environment = dict(os.environ) | dict(more or {})
        environment.pop("NOTIFY_SOCKET", None)
        if notify is not None:
            environment |= {"NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": "1000000"}
        with self._log.open("wb") as log:
            command = [*before, *samepaged.command("run", "--config", str(samepaged.config))]
            self.process = subprocess.Popen(command, stderr=log, env=environment)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait(self, text: str, timeout: float = 30) -> re.Match[str]:
        deadline = time.monotonic() + timeout
        while not (found := re.search(text, self.log)):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        return found

    @property
    def address(self) -> str:
        return self.wait(r"http://(127\.0\.0\.1:\d+)/metrics")[1]

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        try:
            with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError as error:
            error.add_note(self.log)
            raise
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics().get((name, frozenset(labels.items())))

    def wait_metric(self, value: float | None, name: str, *, timeout: float = 30, **labels: str) -> None:
        deadline = time.monotonic() + timeout
        while (got := self.metric(name, **labels)) != value:
            assert time.monotonic() < deadline, f"{name}{labels} is {got}, not {value}; {self.log[-2000:]}"
            time.sleep(0.05)

    def wait_scans(self, count: int) -> None:
        """Wait until so many more scans of all guests are done."""
        name = "samepage_scan_duration_seconds_count"
        deadline = time.monotonic() + 60
        wanted = (self.metric(name) or 0) + count
        while (self.metric(name) or 0) < wanted:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def stop(self) -> float:
        """End it as systemd does, and tell how many seconds it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0, self.log
        return time.monotonic() - began


def runs_within(writer: Writer, seconds: float) -> bool:
    """Whether the guest runs, now or within so many seconds."""
    deadline = time.monotonic() + seconds
    while writer.domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def daemon(
    samepaged: Samepaged,
    notify: Path | None = None,
    *,
    more: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
) -> Iterator[Daemon]:
    """Run it; on leaving it is ended, by SIGKILL where the test has failed."""
    one = Daemon(samepaged, notify, more=more, before=before)
    try:
        yield one
        if one.process.poll() is None:
            one.stop()
    finally:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
