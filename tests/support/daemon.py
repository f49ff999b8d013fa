"""A running `samepaged run`: the process, its log and its metrics."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.support.command import Samepaged

T = TypeVar("T")


class Daemon:
    """A running `samepaged run`, its log and its metrics. `more` is added to its environment; `before` is a command
    prefix that runs it in another setting.
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

    def wait_until(
        self, condition: Callable[[], T], seconds: float = 30, message: str = "", *, every: float = 0.05
    ) -> T:
        """Return the first true value of the condition while the daemon runs. A failure shows the log."""

        def while_alive() -> T:
            value = condition()
            assert value or self.process.poll() is None, self.log
            return value

        return wait_for(while_alive, seconds, lambda: f"{message}; the log ends with {self.log[-3000:]}", every=every)

    def wait(self, text: str, timeout: float = 30) -> re.Match[str]:
        """Wait until the log matches the regular expression."""
        found = self.wait_until(lambda: re.search(text, self.log), timeout, text, every=0.02)
        assert found is not None
        return found

    @property
    def address(self) -> str:
        return self.wait(r"http://(127\.0\.0\.1:\d+)/metrics")[1]

    def exposition(self) -> str:
        """Return the text of /metrics."""
        try:
            with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError as error:
            error.add_note(self.log)
            raise

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Return all samples."""
        return _samples(self.exposition())

    def metric(self, name: str, **labels: str) -> float | None:
        """Return the value of one sample. Only the lines of this metric are parsed, because tests call this many times
        a second.
        """
        lines = [line for line in self.exposition().splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return _samples("\n".join(lines) + "\n").get((name, frozenset(labels.items())))

    def wait_metric(self, value: float | None, name: str, *, timeout: float = 30, **labels: str) -> None:
        """Wait until the sample has this value, or for None, until it is absent."""
        self.wait_until(lambda: self.metric(name, **labels) == value, timeout, f"{name}{labels} is not {value}")

    def wait_higher(self, name: str, than: float | None = None, *, timeout: float = 30, **labels: str) -> float:
        """Wait until the sample exists and exceeds `than` (default: its current value). Return its new value."""
        least = (self.metric(name, **labels) or 0.0) if than is None else than
        value = self.wait_until(
            lambda: found if (found := self.metric(name, **labels) or 0.0) > least else None,
            timeout,
            f"{name}{labels} is not above {least}",
        )
        assert value is not None
        return value

    def wait_scans(self, count: int) -> None:
        """Wait until `count` more scans of all guests are complete."""
        name = "samepage_scan_duration_seconds_count"
        self.wait_higher(name, (self.metric(name) or 0) + count - 1, timeout=60)

    def stop(self) -> float:
        """Stop the daemon as systemd does, and return the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0, self.log
        return time.monotonic() - began

    def kill(self) -> None:
        """Kill the daemon with SIGKILL if it still runs."""
        self.process.kill()
        self.process.wait()


def _samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@contextlib.contextmanager
def daemon(
    samepaged: Samepaged,
    notify: Path | None = None,
    *,
    more: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
) -> Iterator[Daemon]:
    """Run the daemon. On exit it is stopped, or killed with SIGKILL if the test has failed."""
    one = Daemon(samepaged, notify, more=more, before=before)
    try:
        yield one
        if one.process.poll() is None:
            one.stop()
    finally:
        one.kill()
