"""Requests for one scan, with mode and reader as plain strings."""

from __future__ import annotations

from samepaged.config import ScanConfig
from samepaged.drift.budget import UNLIMITED, DriftBudget
from samepaged.memory.reader import ScanRequest

__all__ = ["scan_request"]


def scan_request(
    mode: str = "auto",
    reader: str = "auto",
    max_pause: float = 0.25,
    max_duty: float = 0.01,
    *,
    verify_pages: int = 0,
    still_ksm: bool = False,
    one_instant: bool = False,
    budget: DriftBudget = UNLIMITED,
) -> ScanRequest:
    """Return a request that verifies `verify_pages` pages at each scan (0: none)."""
    verification = {"verify_every": 1, "verify_pages": verify_pages} if verify_pages else {"verify_every": 0}
    config = {"mode": mode, "reader": reader, "max_pause": max_pause, "max_duty": max_duty, "still_ksm": still_ksm}
    return ScanRequest(ScanConfig.model_validate(config | verification), budget, one_instant)
