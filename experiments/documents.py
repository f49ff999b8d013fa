"""Documents for the desktop's programs and the server: deterministic, so the same for every image."""

from __future__ import annotations

import math
import random
import struct
import wave
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_documents"]

PAGES: Final = 8
WORDS: Final = ("memory", "page", "guest", "share", "kernel", "host", "zero", "table", "hash", "fleet", "copy", "write")

FODF: Final = """\
<?xml version="1.0" encoding="UTF-8"?>
<office:document xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"
 xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"
 office:version="1.3" office:mimetype="application/vnd.oasis.opendocument.{kind}">
<office:body><office:{kind}>{body}</office:{kind}></office:body></office:document>
"""


def _sentences(seed: int, count: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(6, 14))).capitalize() + "." for _ in range(count)]


def _web_page(number: int) -> str:
    rows = "".join(f"<tr><td>{index}<td>{line}" for index, line in enumerate(_sentences(number, 150)))
    boxes = "".join(
        f'<div style="background:hsl({index * 37 % 360},60%,70%);float:left;margin:4px;padding:8px">{line}</div>'
        for index, line in enumerate(_sentences(number + 100, 60))
    )
    return f"<!doctype html><title>News {number}</title><h1>News {number}</h1>{boxes}<table>{rows}</table>"


def _pdf(pages: int) -> bytes:
    """Create a PDF of lines of text (ISO 32000: catalogue, page tree, a font, and the content of each page)."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(pages))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number in range(pages):
        text = "".join(f"({line}) Tj T* " for line in _sentences(1000 + number, 45))
        content = f"BT /F1 10 Tf 14 TL 50 780 Td {text}ET"
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {5 + 2 * number} 0 R "
        objects.append(page + "/Resources << /Font << /F1 3 0 R >> >> >>")
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    out, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{one}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    tail = (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n"
    )
    return out + tail.encode() + b"%%EOF\n"


def _sound(path: Path) -> None:
    """Create ten seconds of a chord, 8 kHz, mono."""
    rate = 8_000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        samples = (sum(math.sin(math.tau * tone * at / rate) for tone in (220, 277, 330)) for at in range(10 * rate))
        file.writeframes(b"".join(struct.pack("<h", int(8000 * sample)) for sample in samples))


def write_documents(directory: Path) -> None:
    """Write a letter, a report, a table, a paper, a sound, and `www/` with pages."""
    (directory / "www").mkdir(parents=True, exist_ok=True)
    for number in range(PAGES):
        (directory / "www" / f"page-{number}.html").write_text(_web_page(number))
    (directory / "letter.txt").write_text("\n\n".join(_sentences(2000, 300)) + "\n")
    (directory / "paper.pdf").write_bytes(_pdf(12))
    _sound(directory / "sound.wav")
    paragraphs = "".join(f"<text:p>{line}</text:p>" for line in _sentences(3000, 600))
    (directory / "report.fodt").write_text(FODF.format(kind="text", body=paragraphs))
    cells = "".join(
        "<table:table-row>" + "".join(f"<table:table-cell><text:p>{word}</text:p></table:table-cell>" for word in row)
        + "</table:table-row>"
        for row in (line.split() for line in _sentences(4000, 400))
    )  # fmt: skip
    body = f'<table:table table:name="table">{cells}</table:table>'
    (directory / "table.fods").write_text(FODF.format(kind="spreadsheet", body=body))
