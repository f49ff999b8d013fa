"""The page at `/`."""

from __future__ import annotations

from typing import Final

__all__ = ["INDEX"]

INDEX: Final = b"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>samepaged</title></head><body>
<h1>samepaged</h1>
<p><a href="metrics">metrics</a>, <a href="api/v1/snapshot">last scan</a>, <a href="-/healthy">healthy</a>,
<a href="-/ready">ready</a></p>
</body></html>
"""
