from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samepaged.ipc import MAGIC, MAX_HEADER_BYTES, START
from samepaged.web.protocol import (
    MAX_BODIES_BYTES,
    Answer,
    Document,
    Documents,
    FeedError,
    FrameReader,
    Message,
    Report,
    Settings,
    encode,
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=50)
NUMBERS = st.integers(0, 2**40)
DOCUMENT = st.builds(Document, TEXTS, TEXTS, st.binary(max_size=200), st.integers(200, 599))
MESSAGE = st.one_of(
    st.builds(Documents, st.lists(DOCUMENT, max_size=5).map(tuple)),
    st.builds(Settings, NUMBERS, TEXTS, st.integers(0, 65535), st.none() | TEXTS),
    st.builds(Answer, NUMBERS, TEXTS, st.integers(0, 65535), st.booleans(), TEXTS, st.none() | TEXTS, st.booleans()),
    st.builds(Report, TEXTS),
)


@given(st.lists(MESSAGE, max_size=5), st.data())
def test_messages_survive_any_chunking(messages: list[Message], data: st.DataObject) -> None:
    stream = b"".join(part for message in messages for part in encode(message))
    reader = FrameReader()
    heard: list[Message] = []
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        heard += reader.feed(stream[at : at + size])
        at += size
    assert heard == messages


ANCHOR = [bytes(part) for part in encode(Report("a line"))]


@given(st.lists(st.binary(max_size=100)))
@example(ANCHOR)
def test_any_bytes_parse_or_raise(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        messages = [message for piece in pieces for message in reader.feed(piece)]
    except FeedError as error:
        assert "\n" not in str(error)
    else:
        assert messages or pieces != ANCHOR


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 700) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
KINDS = st.sampled_from(["documents", "settings", "answer", "report", "other"])


FIELDS = st.sampled_from(["documents", "number", "host", "port", "web_config_file", "error", "tls"])
HEADER = st.fixed_dictionaries(
    {
        "kind": KINDS,
        "fields": st.dictionaries(FIELDS, JSON, max_size=4),
        "lengths": st.just({}) | st.fixed_dictionaries({"bodies": st.integers(-1, 20)}),
    }
)


REPORT = {"kind": "report", "fields": {"error": ""}, "lengths": {}}


@given(HEADER | st.dictionaries(KINDS, JSON, max_size=2) | JSON, st.binary(max_size=20))
@example(REPORT, b"")
def test_invalid_header_is_feed_error(header: Any, bodies: bytes) -> None:
    text = json.dumps(header).encode()
    reader = FrameReader()
    try:
        (message,) = reader.feed(START.pack(MAGIC, len(text)) + text + bodies)
    except FeedError:
        assert header != REPORT
        return
    if isinstance(message, Documents):
        assert sum(len(one.body) for one in message.documents) == len(bodies)


def raw(header: str, bodies: bytes = b"") -> bytes:
    return START.pack(MAGIC, len(header)) + header.encode() + bodies


def frame(kind: str, fields: dict[str, Any], bodies: bytes = b"", length: int | None = None) -> bytes:
    lengths = {"bodies": len(bodies) if length is None else length} if kind == "documents" else {}
    return raw(json.dumps({"kind": kind, "fields": fields, "lengths": lengths}), bodies)


def documents(*rows: list[Any], bodies: bytes = b"") -> bytes:
    return frame("documents", {"documents": list(rows)}, bodies)


SETTINGS = {"number": 1, "host": "a", "port": 80, "web_config_file": None}


def test_frames_are_valid() -> None:
    stream = documents(["/", "a", 200, 2], bodies=b"ab") + frame("settings", SETTINGS) + raw(json.dumps(REPORT))
    assert FrameReader().feed(stream) == [
        Documents((Document("/", "a", b"ab"),)),
        Settings(1, "a", 80),
        Report(""),
    ]


@pytest.mark.parametrize(
    "data",
    [
        raw("[" * 50_000),
        documents(["/", "a", 200, 3], bodies=b"ab"),
        documents(["/", "a", 200, 1], bodies=b"ab"),
        documents(["/", "a", 200, -1]),
        documents(["/", "a", 100, 0]),
        documents(["/", "a", True, 0]),
        documents(["/", "a", 200]),
        frame("settings", {**SETTINGS, "port": "80"}),
        frame("settings", {"number": 1, "host": "a", "port": 80}),
        raw(json.dumps({**REPORT, "more": 1})),
        raw(json.dumps({**REPORT, "lengths": {"bodies": 0}})),
        documents(*[["/", "a", 200, 0]] * 65),
        START.pack(MAGIC, MAX_HEADER_BYTES + 1),
        START.pack(b"SPS0", 2),
        frame("documents", {"documents": []}, length=MAX_BODIES_BYTES + 1),
    ],
)
def test_protocol_violation_is_feed_error(data: bytes) -> None:
    with pytest.raises(FeedError):
        FrameReader().feed(data)


def test_the_scanner_takes_no_bodies() -> None:
    with pytest.raises(FeedError):
        FrameReader(largest=0).feed(documents(["/", "a", 200, 1], bodies=b"a"))


def test_too_much_is_not_sent() -> None:
    body = bytes(MAX_BODIES_BYTES // 2 + 1)
    with pytest.raises(FeedError, match="reduce them to"):
        encode(Documents((Document("/a", "", body), Document("/b", "", body))))


def test_bodies_are_not_copied() -> None:
    document = Document("/", "text/plain", b"x" * 1000)
    assert encode(Documents((document,)))[1] is document.body


def test_long_error_is_truncated() -> None:
    (said,) = FrameReader().feed(b"".join(encode(Answer(1, error="é" * 100_000))))
    assert isinstance(said, Answer)
    assert 1000 < len(said.error) < 10_000
