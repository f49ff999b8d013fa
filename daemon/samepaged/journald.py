"""Log records as entries of systemd's journal, with fields (systemd: JOURNAL_NATIVE_PROTOCOL).

systemd connects a service's standard error to the journal by a stream that carries nothing but lines. The journal's own
socket takes entries with fields as well, so that `journalctl` can select by them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["JournalHandler", "about", "configure_logging", "encode", "stderr_is_journal"]

SOCKET: Final = "/run/systemd/journal/socket"
IDENTIFIER: Final = "samepaged"
STDERR: Final = 2
# The priorities of syslog(3), by the levels of `logging`.
PRIORITIES: Final = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}
# A line of this length fits into one buffer of a stream socket: the kernel takes all of it or nothing.
LINE_BYTES: Final = 16 * 1024


def encode(fields: Mapping[str, str]) -> bytes:
    """`fields` as one datagram. A value with a line break follows its length in bytes, so it cannot add a field."""
    datagram = bytearray()
    for name, text in fields.items():
        value = text.encode(errors="backslashreplace")
        if b"\n" in value:
            datagram += b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
        else:
            datagram += b"%s=%s\n" % (name.encode(), value)
    return bytes(datagram)


def about(name: str, uuid: str) -> dict[str, dict[str, str]]:
    """The `extra` of a log call about one domain: `journalctl` can select the entry by it."""
    return {"journal_fields": {"SAMEPAGED_DOMAIN": name, "SAMEPAGED_UUID": uuid}}


def stderr_is_journal() -> bool:
    """Whether standard error is the stream to the journal that systemd opened for it (systemd.exec(5))."""
    try:
        status = os.fstat(STDERR)
    except OSError:
        return False
    stream = f"{status.st_dev}:{status.st_ino}"
    return stat.S_ISSOCK(status.st_mode) and os.environ.get("JOURNAL_STREAM") == stream


class JournalHandler(logging.Handler):
    """Sends each record to the journal's socket at `address`; a record's `journal_fields` become fields of the entry.

    It never blocks, because a journal that hangs must not delay the resumption of a guest. If the socket does not take
    a record, the handler writes it to `stderr`, the stream to the journal, as a line. If that would block too, the
    record is lost, and the number of lost records precedes the next one that the journal accepts.
    """

    def __init__(self, address: str, stderr: socket.socket, message_format: str) -> None:
        super().__init__()
        self._address = address
        self._stderr = stderr
        self._message = logging.Formatter(message_format)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._lost_records = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            if self._lost_records and self._send(_loss_record(self._lost_records)):
                self._lost_records = 0
            if not self._send(record):
                self._lost_records += 1
        except Exception:  # noqa: BLE001 - a record that cannot be formatted ends nothing
            self.handleError(record)

    def close(self) -> None:
        """Close both sockets."""
        self._socket.close()
        self._stderr.close()
        super().close()

    def _send(self, record: logging.LogRecord) -> bool:
        fields = {
            "MESSAGE": self._message.format(record),
            "PRIORITY": str(PRIORITIES.get(record.levelno, PRIORITIES[logging.INFO])),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            **getattr(record, "journal_fields", {}),
        }
        try:
            self._socket.sendto(encode(fields), socket.MSG_DONTWAIT, self._address)
        except OSError:
            return self._write(self.format(record))
        return True

    def _write(self, text: str) -> bool:
        line = text.encode(errors="backslashreplace")[: LINE_BYTES - 1] + b"\n"
        try:
            # Other processes share the stream, so it is not made non-blocking: only this call is.
            return self._stderr.send(line, socket.MSG_DONTWAIT) == len(line)
        except OSError:
            return False


def _loss_record(records: int) -> logging.LogRecord:
    text = "%d log messages were lost: the journal did not accept them"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (records,), None)


def configure_logging(component: str = "") -> None:
    """Log to the journal if standard error leads there, otherwise to standard error, with `component` in each line."""
    message = f"{component}: %(message)s" if component else "%(message)s"
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if stderr_is_journal():
        with contextlib.suppress(OSError):  # out of descriptors: lines still reach the journal
            handler = JournalHandler(SOCKET, socket.fromfd(STDERR, socket.AF_UNIX, socket.SOCK_STREAM), message)
    logging.basicConfig(format=f"samepaged: %(levelname)s: {message}", handlers=[handler])
