"""Small fleets of synthetic guests, as trace files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from samepaged.sharing import FIRST_HASH, ZERO
from samepaged.traces import Trace, TraceStore, parquet
from samepaged.traces.database import database, sql_literal
from tests.support.traces import WHEN, trace

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["WHEN", "guest", "rewrite", "write_mixed"]


def guest(
    host: str, domain: str, pages: list[int], *, at: float = WHEN, uuid: str | None = None, hash_bits: int = 64
) -> Trace:
    """Return a trace of a guest that has pages with these hashes."""
    return trace(pages, host=host, domain=domain, at=at, uuid=uuid, hash_bits=hash_bits)


def synthetic(number: int, *, images: int = 2, image_pages: int = 3000) -> list[int]:
    """Return the page hashes of a guest: most pages of one of `images` images, private pages, some of these duplicated,
    and zero pages.
    """
    random = np.random.default_rng(number)
    image = np.random.default_rng([1, number % images]).integers(FIRST_HASH, 2**64, image_pages, dtype=np.uint64)
    own = random.integers(FIRST_HASH, 2**64, 500, dtype=np.uint64)
    kept = image[random.random(image_pages) < 0.9]
    return [*kept.tolist(), *own.tolist(), *own[:100].tolist(), *[ZERO] * 50]


def write_mixed(place: Path, *, hosts: int = 5, guests: int = 8, sample: int = 1) -> None:
    """Write a fleet. Each host has one export with some of its guests and with older traces of the others. The current
    traces of the others are in their own files, as the daemon writes them. The names contain characters that need
    quoting in a database engine.
    """
    store = TraceStore(place / "recorded [1]")
    for host in range(hosts):
        name = f"_host {host}%20*"
        exported = []
        for number in range(guests):
            one = f"gäst's {number}"
            traced = guest(name, one, synthetic(host * guests + number), at=WHEN + number + 0.000001 * host)
            if number % 2:
                exported.append(traced.sampled(sample))
                continue
            old = guest(name, one, synthetic(1000 + number), at=WHEN - 86400)
            exported.append(old.sampled(sample))
            if sample == 1:
                store.write(traced)
            else:
                parquet.write(place / f"{host}-{number}.parquet", [traced.sampled(sample)])
        parquet.write(place / f"export {host}.parquet", exported)


def rewrite(path: Path, change: str) -> None:
    """Replace the file's rows and keep its metadata. `change` is an SQL expression with a column's name."""
    other = path.with_suffix(".other")
    with database() as connection:
        ((told,),) = connection.execute(
            "SELECT value FROM parquet_kv_metadata(?) WHERE key = 'samepaged'", [str(path)]
        ).fetchall()
        rows = f"read_parquet({sql_literal(str(path))}, hive_partitioning = false)"
        connection.execute(
            f"COPY (SELECT * REPLACE ({change}) FROM {rows}) "  # noqa: S608 - constants of a test
            f"TO {sql_literal(str(other))} (FORMAT parquet, KV_METADATA {{samepaged: {sql_literal(told.decode())}}})"
        )
    other.replace(path)
