"""Page-hash traces: what each guest held at each scan, on disk, and what can be asked of them."""

from __future__ import annotations

from samepaged.traces.store import Store, Stored
from samepaged.traces.trace import Trace, seed_id

__all__ = ["Store", "Stored", "Trace", "seed_id"]
