"""One message of an attribution worker under a guest's control, as the daemon receives it (attribution/wire.py)."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from samepaged.attribution.messages import (
    PAGE_NUMBER_ARRAYS,
    are_page_numbers,
    page_owners_from_message,
    page_owners_to_message,
    replies,
)
from samepaged.attribution.page_owners import KIND, KINDS, PageOwners
from samepaged.attribution.wire import Channel
from samepaged.ipc import MAGIC, START, ProtocolError
from tests.fuzz.target import Target

if TYPE_CHECKING:
    from random import Random

PAGES = 4
FORMS = replies(PAGES)
# Seconds. The message is complete before the read, so the timeout is not reached.
SOON = 5.0


def check(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        message = Channel(ours, lambda: False).receive(FORMS, time.monotonic() + SOON)
    form = FORMS[message.kind]
    assert message.fields.keys() == form.fields.keys()
    for name, shape in form.arrays.items():
        array = message.arrays[name]
        assert array.dtype == np.dtype(shape.dtype)
        assert len(array) == shape.most if shape.exact else len(array) <= shape.most
    for name in PAGE_NUMBER_ARRAYS.get(message.kind, ()):
        if not are_page_numbers(message.arrays[name], PAGES):
            raise ProtocolError("its pages are none")
        np.zeros(PAGES)[message.arrays[name]] = 1
    if message.kind == "attribution":
        _check_ownership(page_owners_from_message(message.fields, message.arrays))


def _check_ownership(found: PageOwners) -> None:
    assert len(found.kinds) == len(found.labels) == len(found.offsets) == len(found.modes) == PAGES
    assert all(kind < len(KINDS) for kind in found.kinds.tolist())
    assert all(label == -1 or found.names[label] is not None for label in found.labels.tolist() if label >= -1)
    assert min(found.labels.tolist()) >= -1
    users = list(zip(found.used_pages.tolist(), found.used_by.tolist(), strict=True))
    assert users == sorted(set(users))
    assert all(0 <= page < PAGES and found.processes[by] is not None and by >= 0 for page, by in users)
    _, arrays = page_owners_to_message(found)
    assert arrays["kinds"].tolist() == found.kinds.tolist()
    assert 0 <= found.missing <= PAGES


def _said(kind: str, arrays: dict[str, Any] | None = None, fields: dict[str, Any] | None = None) -> bytes:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Channel(theirs).send(kind, arrays or {}, fields or {})
        theirs.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: ours.recv(1 << 16), b""))


def _ownership(**changes: Any) -> bytes:
    found = PageOwners(
        kinds=np.array([KIND["library"], KIND["slab"], 0, KIND["stack"]], dtype=np.uint8),
        labels=np.array([0, 1, -1, -1], dtype=np.int32),
        offsets=np.array([4096, -1, -1, -1], dtype=np.int64),
        modes=np.array([32, 0, 0, 8], dtype=np.uint16),
        names=("/lib/a.so", "slab dentry"),
        used_pages=np.array([0, 0, 3], dtype=np.int32),
        used_by=np.array([0, 1, 1], dtype=np.int32),
        processes=("sshd", "bash"),
        kernel="6.1.0",
    )
    fields, arrays = page_owners_to_message(found)
    return _said("attribution", {**arrays, "extra_pages": np.array([2]), **changes}, fields)


SEEDS = (
    _said("fetch", {"pages": np.array([0, 2, 3])}),
    _said("find_btf", fields={"build_id": "0123456789abcdef"}),
    _said(
        "inspection",
        {
            "profile": np.frombuffer(b"{}", dtype=np.uint8),
            "struct_pages": np.array([1]),
            "selected_pages": np.array([2, 3]),
            "extra_pages": np.array([0]),
        },
    ),
    _said("selection", {"pages": np.array([], dtype=np.int64)}),
    _said("error", fields={"reason": "a task at 0x123", "linux": 1}),
    _ownership(),
)
WORDS = (
    *(
        b'"kind"',
        b'"fields"',
        b'"lengths"',
        b'"pages"',
        b'"fetch"',
        b'"attribution"',
        b'"extra_pages"',
        b'"missing"',
        b"null",
    ),
    *(b"true", b"1e9", b"NaN", b"-1", b"4611686018427387904", b"[[[[[[[[", b'{"a":{"a":', b"\\ud800", MAGIC, bytes(8)),
    *(b"\xff" * 8, b"\0\0\0\x80", (1).to_bytes(8, "little"), (4).to_bytes(4, "little")),
)


def grow(random: Random) -> bytes:
    """Return a message with a well-formed header, and random lengths and numbers."""
    kind = random.choice(tuple(FORMS))
    form = FORMS[kind]
    numbers = (0, 0, 1, 1, 2, 3, 4, 5, -1, 1 << 40)
    lengths = {
        name: shape.most if shape.exact and random.random() < 0.9 else random.choice((0, 0, 1, 2, 3, PAGES))
        for name, shape in form.arrays.items()
    }
    fields = {name: random.choice((0, 0, 1, "6.1.0", None, None)) for name in form.fields}
    for name in ("linux", "missing"):
        if name in fields and random.random() < 0.9:
            fields[name] = random.randint(0, 1)
    header = json.dumps({"kind": kind, "fields": fields, "lengths": lengths}).encode()
    raw = START.pack(MAGIC, len(header)) + header
    for name, length in lengths.items():
        dtype = np.dtype(form.arrays[name].dtype)
        if name in {"names", "processes"}:
            raw += bytes(random.choice(b"ab\0") for _ in range(length - 1)) + bytes(min(length, 1))
        else:
            some = sorted(random.choice(numbers[:6]) for _ in range(length))
            values = some if random.random() < 0.8 else [random.choice(numbers) for _ in range(length)]
            raw += np.array(values, dtype=np.int64).astype(dtype).tobytes()
    return raw


TARGET = Target(check, SEEDS, WORDS, longest=2048, binary=True, grow=grow)
