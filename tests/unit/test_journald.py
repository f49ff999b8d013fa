from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.journald import JournalHandler, about, encode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,63}", fullmatch=True)
LOGGER = "samepaged.test"


def parse(datagram: bytes) -> dict[str, str]:
    """As the journal reads it: a line `NAME=value`, or `NAME`, the length of the value, and the value."""
    found: dict[str, str] = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            end = 8 + int.from_bytes(rest[:8], "little")
            value, rest = rest[8:end], rest[end + 1 :]
        assert name.decode() not in found
        found[name.decode()], datagram = value.decode(), rest
    return found


class Journal:
    """The journal's two ends of what a service writes: entries, and lines of standard error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.entries.bind(str(path))
        self.stream, self.stderr = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for one in (self.entries, self.stream):
            one.settimeout(5)

    def entry(self) -> dict[str, str]:
        return parse(self.entries.recv(1 << 20))

    def drain(self) -> list[dict[str, str]]:
        found = []
        self.entries.settimeout(0)
        while True:
            try:
                found.append(self.entry())
            except BlockingIOError:
                self.entries.settimeout(5)
                return found

    def lines(self) -> list[str]:
        self.stream.settimeout(0)
        text = b""
        while True:
            try:
                text += self.stream.recv(1 << 20)
            except BlockingIOError:
                return text.decode().splitlines()

    def close(self) -> None:
        for one in (self.entries, self.stream, self.stderr):
            one.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    one = Journal(tmp_path / "socket")
    yield one
    one.close()


@pytest.fixture
def logger(journal: Journal) -> Iterator[logging.Logger]:
    handler = JournalHandler(str(journal.path), journal.stderr.dup(), "guard: %(message)s")
    handler.setFormatter(logging.Formatter("samepaged: %(levelname)s: guard: %(message)s"))
    one = logging.getLogger(LOGGER)
    one.addHandler(handler)
    one.setLevel(logging.DEBUG)
    one.propagate = False
    yield one
    one.propagate = True
    one.removeHandler(handler)
    handler.close()


def test_encoding_matches_the_protocol() -> None:
    assert encode({"MESSAGE": "a=b", "PRIORITY": "6"}) == b"MESSAGE=a=b\nPRIORITY=6\n"
    assert encode({"MESSAGE": "a\nb=c"}) == b"MESSAGE\n\x05\0\0\0\0\0\0\0a\nb=c\n"
    assert encode({"MESSAGE": ""}) == b"MESSAGE=\n"


@given(st.dictionaries(NAMES, st.text()))
def test_any_values_arrive_as_they_are(fields: dict[str, str]) -> None:
    assert parse(encode(fields)) == fields


@given(st.text(alphabet=st.characters(categories=["Cs"]), min_size=1))
def test_invalid_unicode_is_escaped(text: str) -> None:
    assert parse(encode({"A": text}))["A"] == text.encode(errors="backslashreplace").decode()


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.CRITICAL, "2"),
        (logging.ERROR, "3"),
        (logging.WARNING, "4"),
        (logging.INFO, "6"),
        (logging.DEBUG, "7"),
    ],
)
def test_a_record_becomes_an_entry(journal: Journal, logger: logging.Logger, level: int, priority: str) -> None:
    logger.log(level, "domain %r", "x\ny")
    assert journal.entry() == {
        "MESSAGE": "guard: domain 'x\\ny'",
        "PRIORITY": priority,
        "SYSLOG_IDENTIFIER": "samepaged",
    }
    assert journal.lines() == []


def test_record_fields_become_entry_fields(journal: Journal, logger: logging.Logger) -> None:
    logger.info("resumed", extra=about("x\nPRIORITY=0", "5e0c9e1c"))
    assert journal.entry() == {
        "MESSAGE": "guard: resumed",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "samepaged",
        "SAMEPAGED_DOMAIN": "x\nPRIORITY=0",
        "SAMEPAGED_UUID": "5e0c9e1c",
    }


def test_message_includes_the_traceback(journal: Journal, logger: logging.Logger) -> None:
    logger.error("domain failed", exc_info=ZeroDivisionError("no"))
    assert journal.entry()["MESSAGE"].endswith("guard: domain failed\nZeroDivisionError: no")


def test_missing_socket_falls_back_to_stderr(journal: Journal, logger: logging.Logger) -> None:
    journal.path.unlink()
    logger.warning("domain %s", "web1")
    assert journal.lines() == ["samepaged: WARNING: guard: domain web1"]


def test_a_restarted_journal_is_used_again(journal: Journal, logger: logging.Logger, tmp_path: Path) -> None:
    journal.path.unlink()
    logger.info("to stderr")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as another:
        another.bind(str(journal.path))
        another.settimeout(5)
        logger.info("to the journal")
        assert parse(another.recv(1 << 16))["MESSAGE"] == "guard: to the journal"


def test_oversized_record_goes_to_stderr(journal: Journal, logger: logging.Logger) -> None:
    logger.info("x" * (1 << 20))
    (line,) = journal.lines()
    assert line.startswith("samepaged: INFO: guard: xxx")
    assert journal.drain() == []


def test_a_journal_that_hangs_blocks_nothing(journal: Journal, logger: logging.Logger) -> None:
    records = 20_000
    began = time.monotonic()
    for number in range(records):
        logger.info("%06d %s", number, "x" * 200)
    assert time.monotonic() - began < 60  # a send that waits would take minutes for so many
    entries, lines = journal.drain(), journal.lines()
    assert entries
    assert lines
    accepted = [text.rpartition("guard: ")[2][:6] for text in [one["MESSAGE"] for one in entries] + lines]
    assert accepted == [f"{number:06d}" for number in range(len(accepted))]
    assert all(len(line) == len("samepaged: INFO: guard: ") + 207 for line in lines)
    # The journal goes on: it learns how much it has missed, once.
    logger.info("again")
    logger.info("and again")
    assert [(one["MESSAGE"], one["PRIORITY"]) for one in journal.drain()] == [
        (f"guard: {records - len(accepted)} log messages were lost: the journal did not accept them", "4"),
        ("guard: again", "6"),
        ("guard: and again", "6"),
    ]


PROGRAM = """
import logging, sys
from samepaged import journald
journald.SOCKET = sys.argv[1]
journald.configure_logging("guard")
logging.getLogger("samepaged").warning("domain web1")
"""


def start(journal: Journal, stream: str) -> None:
    environment = {**os.environ, "JOURNAL_STREAM": stream}
    command = [sys.executable, "-c", PROGRAM, str(journal.path)]
    subprocess.run(command, check=True, stderr=journal.stderr.fileno(), env=environment, timeout=60)


def test_systemd_service_logs_to_journal(journal: Journal) -> None:
    status = os.fstat(journal.stderr.fileno())
    start(journal, f"{status.st_dev}:{status.st_ino}")
    assert journal.entry() == {"MESSAGE": "guard: domain web1", "PRIORITY": "4", "SYSLOG_IDENTIFIER": "samepaged"}
    assert journal.lines() == []


@pytest.mark.parametrize("stream", ["", "1:2", "no stream"])
def test_redirected_stderr_is_kept(journal: Journal, stream: str) -> None:
    start(journal, stream)
    assert journal.lines() == ["samepaged: WARNING: guard: domain web1"]
    assert journal.drain() == []
