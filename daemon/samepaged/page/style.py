"""The style sheet of the page, and a content security policy that allows only this style sheet."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Final

__all__ = ["POLICY", "STYLE"]

STYLE: Final = (files("samepaged.page") / "style.css").read_text(encoding="utf-8").strip()

_HASH: Final = b64encode(sha256(STYLE.encode()).digest()).decode()
POLICY: Final = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"
"""Content-Security-Policy of the page: a hostile name cannot add scripts or styles."""
