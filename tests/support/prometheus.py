"""A real Prometheus that scrapes one address on loopback, in its own directory."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
- job_name: samepaged
  static_configs: [{{targets: ['{target}']}}]
{more}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Prometheus:
    """A running Prometheus at the address `url`."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=5) as answer:
            return json.load(answer)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the result of an instant query: series with `metric` and `value`."""
        answer = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def wait_for(self, expression: str, timeout: float = 30) -> list[dict[str, Any]]:
        """Wait until the query has a result, and return it."""

        def result() -> list[dict[str, Any]]:
            with contextlib.suppress(OSError):
                return self.query(expression)
            return []

        return wait_for(result, timeout, f"Prometheus has a result for {expression}", every=0.2)


@contextlib.contextmanager
def prometheus(root: Path, target: str, more: str = "") -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes `target` (host:port) every second. It is stopped on exit. `more` are lines of the
    job in its configuration, indented by two spaces.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        message = "prometheus is not installed; run `make deps`"
        raise RuntimeError(message)
    root.mkdir(parents=True, exist_ok=True)
    (root / "prometheus.yml").write_text(CONFIG.format(target=target, more=more))
    port = free_port()
    command = [
        binary,
        f"--config.file={root}/prometheus.yml",
        f"--storage.tsdb.path={root}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (root / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield Prometheus(port)
        finally:
            process.terminate()
            process.wait(20)
