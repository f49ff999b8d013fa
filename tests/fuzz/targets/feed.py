"""Messages between scanner and web process: frames, whole and in pieces."""

from __future__ import annotations

import json
from typing import Final

from samepaged.ipc import MAGIC, START
from samepaged.web import protocol
from tests.fuzz.target import Target

LARGEST: Final = 1 << 16
WORDS: Final = (
    *(
        b'{"kind": "documents", "fields": {"documents": [',
        b'"fields": {"number": 1, "host": "", "port": 1, "web_config_file": null}',
        b'"lengths": {"bodies": ',
        b'"settings"',
        b'"answer"',
        b'{"kind": "report", "fields": {"error": ""}, "lengths": {}}',
        b"]}",
        MAGIC,
        b"null",
        b"true",
        b"1.0",
    ),
    *(
        b"NaN",
        b'["/", "text/plain", 200, 0]',
        b'"\\ud800"',
        b"[" * 300,
        b"-1",
        b"\0\0\0\0\0\0\0\0",
        b"\0\0\0\x10\0\0\0\0",
    ),
)


def check(data: bytes) -> None:
    messages = protocol.FrameReader(LARGEST).feed(data)
    pieces = protocol.FrameReader(LARGEST)
    assert [m for at in range(0, len(data), 5) for m in pieces.feed(data[at : at + 5])] == messages
    for message in messages:
        try:
            frame = b"".join(protocol.encode(message))
        except protocol.FeedError:  # its strings are longer when encoded as ASCII, as protocol.encode does
            continue
        assert protocol.FrameReader().feed(frame) == [message]


def _frame(*messages: protocol.Message) -> bytes:
    return b"".join(part for message in messages for part in protocol.encode(message))


def _raw(header: object, bodies: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return START.pack(MAGIC, len(text)) + text + bodies


TARGET = Target(
    check,
    seeds=(
        _frame(protocol.Documents()),
        _frame(
            protocol.Documents(
                (protocol.Document("/", "text/html", b"<p>"), protocol.Document("/-/ready", "text/plain", b"no", 503))
            )
        ),
        _frame(
            protocol.Settings(1, "127.0.0.1", 9953),
            protocol.Settings(2, "::1", 0, "/etc/samepaged/web.yaml"),
            protocol.Documents(),
        ),
        _frame(
            protocol.Answer(1, "127.0.0.1", 9953, tls=True),
            protocol.Answer(2, error="é", misconfigured=True),
            protocol.Report(),
            protocol.Report("no"),
        ),
        _raw(
            {
                "kind": "documents",
                "fields": {"documents": [["/", "a", 200, 2], ["/", "b", 200, 3]]},
                "lengths": {"bodies": 5},
            },
            b"aabbb",
        ),
    ),
    words=WORDS,
    refusals=(protocol.FeedError,),
)
