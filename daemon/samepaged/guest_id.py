"""Identity of a guest, from the list of domains to the exported snapshot."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GuestId"]


@dataclass(frozen=True, slots=True, order=True)
class GuestId:
    """The URI of the libvirt connection, and the domain's UUID. It is the key of all state about a guest: a renamed
    domain keeps its state, and a new domain with the name of an earlier one inherits nothing. Names are for display.
    """

    uri: str
    uuid: str
