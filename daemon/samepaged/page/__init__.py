"""The page at `/`: a snapshot as HTML that asks for nothing, runs no script, and can be read without its colours."""

from __future__ import annotations

from samepaged.page.page import Page

__all__ = ["Page"]
