"""Thousands of clients that never finish, and a Prometheus beside them that must not notice."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import re
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Final

import bcrypt
import pytest

from tests.chaos.conftest import BYSTANDER, RESTLESS, Host
from tests.chaos.figures import at_most
from tests.chaos.scale import FULL, SCALE
from tests.support.daemon import daemon
from tests.support.processes import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.command import Samepaged

SCANS: Final = RESTLESS.format("mode: snapshot, max_pause: 5s") + f"\nguests: {{exclude: [{BYSTANDER}]}}"
# Scrapes a second: more than any Prometheus makes, and fewer than would be a load of their own.
RATE: Final = 10
# Scrapes at most, until there have been enough scans.
MORE: Final = 600
# Seconds; `make test` may run beside anything.
PROMPT: Final = 0.1 if FULL else 1.0
USER: Final = "prometheus"
PASSWORD: Final = "of the scraper"  # noqa: S105 - a test's


@dataclass(frozen=True)
class Scraper:
    """A client like Prometheus, but with a new connection for each scrape."""

    port: int
    tls: bool = False
    user: str = ""

    def scrape(self) -> str:
        """Return the metrics. Raises the exceptions of http.client."""
        if self.tls:
            trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
            client: http.client.HTTPConnection = http.client.HTTPSConnection("127.0.0.1", self.port, context=trusting)
        else:
            client = http.client.HTTPConnection("127.0.0.1", self.port)
        with contextlib.closing(client):
            client.timeout = 10
            login = {"Authorization": "Basic " + base64.b64encode(self.user.encode()).decode()} if self.user else {}
            client.request("GET", "/metrics", headers=login)
            answer = client.getresponse()
            text = answer.read().decode()
            assert answer.status == 200, (answer.status, text[:200])
            return text


@dataclass(frozen=True)
class Seen:
    """Results of a period of scraping: seconds of each scrape, and between the ends of two scans."""

    scrapes: list[float]
    gaps: list[float]

    @property
    def p99(self) -> float:
        return quantiles(self.scrapes, n=100)[98]


def watch(scraper: Scraper, scrapes: int) -> Seen:
    """Scrape so many times, and on until scans have ended three times."""
    took: list[float] = []
    ends: list[float] = []
    due = time.monotonic()
    while len(took) < scrapes or len(ends) < 3:
        assert len(took) < scrapes + MORE, f"scans ended {len(ends)} times"
        time.sleep(max(0.0, due - time.monotonic()))
        due += 1 / RATE
        began = time.monotonic()
        text = scraper.scrape()
        took.append(time.monotonic() - began)
        found = re.search(r"^samepage_last_scan_timestamp_seconds (\S+)$", text, re.MULTILINE)
        assert found is not None
        if not ends or ends[-1] != float(found[1]):
            ends.append(float(found[1]))
    return Seen(took, [b - a for a, b in itertools.pairwise(ends)])


@contextlib.contextmanager
def crowd(scraper: Scraper) -> Iterator[dict[str, int]]:
    """The crowd, all of it there; how it fared is in the dictionary after it has left."""
    command = [sys.executable, "-m", "tests.chaos.crowd", str(scraper.port)]
    command += ["--half-open", str(SCALE.half_open), "--slow", str(SCALE.slow), "--user", scraper.user]
    command += ["--tls"] if scraper.tls else []
    fared: dict[str, int] = {}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], text=True
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield fared
            assert process.poll() is None
            process.stdin.close()
            fared |= json.loads(process.stdout.readline())
            assert process.wait(10) == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def beset(kind: str, scraper: Scraper, family: Family) -> None:
    """Scrape alone, then beside the crowd, and compare."""
    before = family.held
    alone = watch(scraper, SCALE.scrapes)
    with crowd(scraper) as fared:
        beside = watch(scraper, SCALE.scrapes)
        assert family.exits == []
    at_most(
        None, f"{kind}: half-open and slow clients that come and come again", SCALE.half_open + SCALE.slow, "clients"
    )
    at_most(None, f"{kind}: visits of theirs", fared["visits"], "visits")
    at_most(None, f"{kind}: p99 of {SCALE.scrapes} scrapes without them", round(alone.p99, 4), "s")
    at_most(PROMPT, f"{kind}: p99 of {SCALE.scrapes} scrapes beside them", round(beside.p99, 4), "s")
    # scans follow each other once a second
    delay = max(beside.gaps) - max(alone.gaps)
    at_most(5 * PROMPT, f"{kind}: longest time between two scans, beside them less without", round(delay, 3), "s")
    assert family.leaks(before, 60) == {}


@pytest.mark.timeout(600)
def test_slow_clients_delay_nothing(host: Host, samepaged: Samepaged) -> None:
    samepaged.configure(SCANS)
    with daemon(samepaged) as one:
        one.wait_scans(2)
        with Family(one.process.pid) as family:
            beset("plain", Scraper(int(one.address.rpartition(":")[2])), family)


@pytest.fixture
def web_config() -> Iterator[Path]:
    """A web configuration file with a certificate and a user, readable by the web process's user."""
    with tempfile.TemporaryDirectory(prefix="spc-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        key, certificate, web = (directory / name for name in ("key.pem", "certificate.pem", "web.yaml"))
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        make += ["-subj", "/CN=localhost", "-days", "2", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(make, check=True, capture_output=True)
        key.chmod(0o644)
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(10)).decode()
        files = f"tls_server_config: {{cert_file: {certificate}, key_file: {key}}}"
        web.write_text(f"{files}\nbasic_auth_users: {{{USER}: '{hashed}'}}\n")
        yield web


@pytest.mark.timeout(600)
def test_slow_tls_clients_delay_nothing(host: Host, samepaged: Samepaged, web_config: Path) -> None:
    samepaged.configure(SCANS)
    text = samepaged.config.read_text()
    samepaged.config.write_text(text.replace("export: {", f"export: {{web_config_file: {web_config}, "))
    with daemon(samepaged) as one:
        host.witness.next_pause(lambda: one.process.poll() is None or pytest.fail(one.log))
        port = int(one.wait(r"https://127\.0\.0\.1:(\d+)/metrics")[1])
        scraper = Scraper(port, tls=True, user=f"{USER}:{PASSWORD}")
        while "samepage_last_scan_timestamp_seconds" not in scraper.scrape():
            time.sleep(0.1)
        with Family(one.process.pid) as family:
            beset("TLS and password", scraper, family)
