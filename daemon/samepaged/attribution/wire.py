"""Messages with numpy arrays between the daemon and the worker, which is untrusted (ipc.py)."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from samepaged.ipc import Stream, pack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from samepaged.ipc import Form

__all__ = ["Channel", "Message"]


@dataclass(frozen=True, slots=True)
class Message:
    """A message that conforms to its form. The arrays are writable and have one dimension."""

    kind: str
    fields: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


class Channel(Stream):
    """One end of the connection."""

    def send(
        self,
        kind: str,
        arrays: Mapping[str, NDArray[Any]] = MappingProxyType({}),
        fields: Mapping[str, int | str | None] = MappingProxyType({}),
        deadline: float | None = None,
    ) -> None:
        """Send a message before `deadline` (of time.monotonic). Raises ProtocolError."""
        self.write(pack(kind, fields, {name: len(array) for name, array in arrays.items()}), deadline)
        for array in arrays.values():
            self.write(np.ascontiguousarray(array).data.cast("B") if len(array) else b"", deadline)

    def receive(self, forms: Mapping[str, Form], deadline: float | None = None) -> Message:
        """Return the next message, of one of these forms. Raises ProtocolError."""
        header = self.read_header(forms, deadline)
        arrays = {}
        for name, length in header.lengths.items():  # in the order in which they were sent
            array = np.empty(length, dtype=forms[header.kind].arrays[name].dtype)
            if len(array):
                self.fill(array.data.cast("B"), deadline)
            arrays[name] = array
        return Message(header.kind, header.fields, arrays)
