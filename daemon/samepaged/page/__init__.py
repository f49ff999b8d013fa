"""The status page at `/`: one HTML document without scripts, readable without colours."""

from __future__ import annotations

from samepaged.page.page import Page

__all__ = ["Page"]
