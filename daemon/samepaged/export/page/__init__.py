"""The page at `/`: a snapshot as HTML that asks for nothing, runs no script, and can be read without its colours."""

from __future__ import annotations

from samepaged.export.page.whole import Page

__all__ = ["Page"]
