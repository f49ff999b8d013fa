"""A real Alertmanager, and Prometheus with the project's rules, with days shortened to seconds."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.support.fixtures import connection, every_guest_runs_on, libvirtd, root, samepaged
from tests.support.prometheus import Prometheus, free_port, prometheus
from tests.support.waiting import wait_for
from tests.support.web_server import answering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["connection", "every_guest_runs_on", "libvirtd", "root", "samepaged"]

RULES: Final = Path(__file__).parents[2] / "observability" / "prometheus" / "samepaged.rules.yml"

# How long each duration in the rules is in these tests; an unlisted one is an error: add it
# here. A day is both the minimum age of a guest's sharing figures and the length of the look-back.
COMPRESSED: Final = {
    "4m": "1s",  # between two evaluations
    "15m": "1s",  # firing on while samepaged restarts
    "1h": "3s",
    "1m": "3s",
    "5m": "3s",
    "10m": "3s",
    "20m": "3s",
    "6h": "3s",
    "1d": "40s",
    "1w": "2m",
}
DURATION: Final = re.compile(
    r"(?<=\[)\d+[a-z]+(?=])|(?<=offset )\d+[a-z]+|(?<=for: )\d+[a-z]+|(?<=interval: )\d+[a-z]+"
)

CONFIG: Final = """\
route: {receiver: nobody, group_wait: 0s, group_interval: 1s}
receivers: [{name: nobody}]
"""


def compressed() -> str:
    """The rules with the durations of these tests, evaluated every second."""
    text = DURATION.sub(lambda found: COMPRESSED[found[0]], RULES.read_text(encoding="utf-8"))
    rules = yaml.safe_load(text)
    for group in rules["groups"]:
        group["interval"] = "1s"
    return yaml.safe_dump(rules)


class Alertmanager:
    """A running Alertmanager that can be asked."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"

    def alerts(self, name: str) -> list[dict[str, Any]]:
        """The alerts of that name that are active."""
        query = urllib.parse.urlencode({"filter": f'alertname="{name}"', "active": "true"})
        with urllib.request.urlopen(f"http://{self.address}/api/v2/alerts?{query}", timeout=5) as answer:
            result: list[dict[str, Any]] = json.load(answer)
            return result

    def wait_for(self, name: str, *, firing: bool, timeout: float = 60) -> list[dict[str, Any]]:
        """Wait until there is such an alert, or none."""
        wait_for(
            lambda: bool(self.alerts(name)) == firing,
            timeout,
            lambda: f"{name} is {'' if firing else 'not '}firing: {self.alerts(name)}",
            every=0.2,
        )
        return self.alerts(name)


@contextlib.contextmanager
def alertmanager(directory: Path) -> Iterator[Alertmanager]:
    """One in a directory of its own, on loopback, alone; ended on leaving."""
    binary = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    assert binary is not None, "prometheus-alertmanager is not installed; run `make deps`"
    directory.mkdir()
    (directory / "alertmanager.yml").write_text(CONFIG)
    one = Alertmanager(free_port())
    command = [
        binary,
        f"--config.file={directory}/alertmanager.yml",
        f"--storage.path={directory}/data",
        f"--web.listen-address={one.address}",
        "--cluster.listen-address=",
    ]
    with answering(command, f"http://{one.address}/-/ready", directory / "log"):
        yield one


@dataclass(frozen=True)
class Watch:
    """The monitoring of one samepaged: Prometheus, which sends alerts to Alertmanager."""

    prometheus: Prometheus
    alertmanager: Alertmanager


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[[str], Watch]]:
    """Begins to watch the samepaged at an address."""
    with contextlib.ExitStack() as stack:

        def begin(address: str) -> Watch:
            alerts = stack.enter_context(alertmanager(tmp_path / "alertmanager"))
            rules = tmp_path / "compressed.rules.yml"
            rules.write_text(compressed())
            more = (
                f"rule_files: ['{rules}']\n"
                f"alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alerts.address}']}}]}}]}}\n"
            )
            return Watch(stack.enter_context(prometheus(tmp_path / "prometheus", address, more)), alerts)

        yield begin
