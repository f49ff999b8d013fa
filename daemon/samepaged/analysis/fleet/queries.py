"""Fleet queries, in the SQL subset common to DuckDB and Spark.

The input is two relations: `traces(host, domain, scanned_at, hash, pages)`, the rows of files, and `guests(guest,
host_number, host, domain, scanned_at)`, the evaluated traces, with hosts and guests as numbers. Each of the relations
in `STEPS` is built from the preceding ones; the other queries read them.

Pairs of hosts. A content on n hosts is in n² / 2 pairs, and every page of a common library is a content on all hosts:
written out, a fleet has more pairs than can be counted. Contents are therefore numbered, with contents of the same
hosts in sequence. 62 of them form one integer (a word; the last two bits stay clear of the sign) for each host with any
of them. For two hosts' words of the same contents, `bit_count(a & b)` is the number of common contents. Contents of
very many guests use 16 words in a row. A content is written out if it has few guests, or if the contents of its word
have so little in common that the word's hosts would form more pairs than the contents one by one. All methods give the
same count.
"""

from __future__ import annotations

from typing import Final

__all__ = ["COMMON_CONTENTS", "GUESTS", "HOSTS", "PAIRS", "SHARED", "STEPS", "numbered_rows"]

# Contents per word, and words per block. The queries contain these numbers as literals.
WORD_CONTENTS: Final = 62
BLOCK_WORDS: Final = 16

# The only read of the files: the rows of the evaluated traces.
NUMBERED_ROWS: Final = """
SELECT guests.guest, guests.host_number AS host, traces.hash, traces.pages
FROM traces JOIN guests
  ON traces.host = guests.host AND traces.domain = guests.domain AND traces.scanned_at = guests.scanned_at
"""

# One row for each content on several hosts, and one row per host for all contents on that host alone. The lowest and
# highest number of a content's hosts, and the lowest shuffled number, are similar for contents of similar hosts.
CONTENTS: Final = """
SELECT shared AS hash, alone AS host, count(*) AS contents, max(guests) AS guests,
  min(low) AS low, max(high) AS high, min(shuffled) AS shuffled
FROM (
  SELECT CASE WHEN low < high THEN hash END AS shared, CASE WHEN low = high THEN low END AS alone,
    guests, low, high, shuffled
  FROM (
    SELECT hash, count(*) AS guests, min(host) AS low, max(host) AS high, min(host % 65521 * 32003 % 65521) AS shuffled
    FROM numbered GROUP BY hash
  ) AS each_content
) AS each_kind
GROUP BY shared, alone
"""

# Places of contents in words: contents with similar numbers of guests and similar hosts are adjacent. The number of a
# word is kind and lowest host · 2^36 + the number of its first content there.
PLACED: Final = """
SELECT hash, (CAST(band AS BIGINT) * 16777216 + low) * 68719476736 + (n - n % 62) AS word,
  CAST(power(2, n % 62) AS BIGINT) AS bit
FROM (
  SELECT hash, low, band,
    CAST(row_number() OVER (PARTITION BY band, low ORDER BY shuffled, high, hash) AS BIGINT) - 1 AS n
  FROM (
    SELECT hash, low, high, shuffled, CASE WHEN guests <= 32 THEN 0 WHEN guests <= 512 THEN 1 ELSE 2 END AS band
    FROM contents WHERE hash IS NOT NULL AND guests > 4
  ) AS banded
) AS counted
"""

WORDS: Final = """
SELECT placed.word, numbered.host, bit_or(placed.bit) AS bits
FROM numbered JOIN placed ON numbered.hash = placed.hash
GROUP BY placed.word, numbered.host
"""

# Profitable words: hosts² pairs against (hosts with a content)², summed over the word's contents.
DENSE: Final = """
SELECT words.word, words.host, words.bits
FROM words JOIN (
  SELECT word FROM words GROUP BY word
  HAVING count(*) * count(*) * bit_count(bit_or(bits)) <= sum(bit_count(bits)) * sum(bit_count(bits))
) AS paying ON words.word = paying.word
"""

# The hosts of each content without a place in such a word.
HOLDERS: Final = """
SELECT DISTINCT numbered.hash, numbered.host
FROM numbered JOIN (
  SELECT hash FROM contents WHERE hash IS NOT NULL AND guests <= 4
  UNION ALL
  SELECT placed.hash
  FROM placed LEFT JOIN (SELECT DISTINCT word FROM dense) AS paying ON placed.word = paying.word
  WHERE paying.word IS NULL
) AS loose ON numbered.hash = loose.hash
"""

# 16 words of contents of more than 512 guests as one row. 2^61 is the start of their numbers, 992 the number of
# contents per block.
BLOCKS: Final = (
    "SELECT host, word - word % 68719476736 % 992 AS block, "  # noqa: S608 - of this module's own constants
    + ", ".join(
        f"max(CASE WHEN word % 68719476736 % 992 = {WORD_CONTENTS * at} THEN bits ELSE 0 END) AS bits{at}"
        for at in range(BLOCK_WORDS)
    )
    + " FROM dense WHERE word >= 2305843009213693952 GROUP BY host, word - word % 68719476736 % 992"
)

# The preceding step is the selection of a part of the hashes (`numbered_rows`).
STEPS: Final = {
    "contents": CONTENTS,
    "placed": PLACED,
    "words": WORDS,
    "dense": DENSE,
    "holders": HOLDERS,
    "blocks": BLOCKS,
}

# (guest, rows, pages, XOR of hashes, sum of their remainders), to compare with the metadata.
GUESTS: Final = """
SELECT guest, count(*) AS rows_read, CAST(sum(pages) AS BIGINT) AS pages, bit_xor(hash) AS hashes,
  CAST(sum(hash % 4294967291) AS BIGINT) AS remainders
FROM numbered GROUP BY guest
"""

# (host, its contents, those on no other host).
HOSTS: Final = """
SELECT host, CAST(sum(held) AS BIGINT) AS held, CAST(sum(alone) AS BIGINT) AS alone
FROM (
  SELECT host, contents AS held, contents AS alone FROM contents WHERE hash IS NULL
  UNION ALL
  SELECT host, sum(bit_count(bits)) AS held, 0 AS alone FROM dense GROUP BY host
  UNION ALL
  SELECT host, count(*) AS held, 0 AS alone FROM holders GROUP BY host
) AS each_part
GROUP BY host
"""

# (contents on several hosts,).
SHARED: Final = "SELECT count(*) AS shared FROM contents WHERE hash IS NOT NULL"

# (hash, hosts, guests, pages) of the contents with the most guests among those on several hosts.
COMMON_CONTENTS: Final = """
SELECT numbered.hash, count(DISTINCT numbered.host) AS hosts, count(*) AS guests,
  CAST(sum(numbered.pages) AS BIGINT) AS pages
FROM numbered JOIN (
  SELECT hash FROM contents WHERE hash IS NOT NULL ORDER BY guests DESC, hash LIMIT 10
) AS top ON numbered.hash = top.hash
GROUP BY numbered.hash
"""

# (host, other host with a higher number, common contents), if there are any.
PAIRS: Final = (
    "SELECT first_host, second_host, CAST(sum(shared) AS BIGINT) AS shared FROM ("  # noqa: S608 - as above
    "SELECT a.host AS first_host, b.host AS second_host, sum("
    + " + ".join(f"CAST(bit_count(a.bits{at} & b.bits{at}) AS INT)" for at in range(BLOCK_WORDS))
    + ") AS shared FROM blocks AS a JOIN blocks AS b ON a.block = b.block AND a.host < b.host GROUP BY a.host, b.host "
    "UNION ALL SELECT a.host, b.host, sum(bit_count(a.bits & b.bits)) AS shared "
    "FROM dense AS a JOIN dense AS b ON a.word = b.word AND a.host < b.host "
    "WHERE a.word < 2305843009213693952 AND b.word < 2305843009213693952 GROUP BY a.host, b.host "
    "UNION ALL SELECT a.host, b.host, count(*) AS shared "
    "FROM holders AS a JOIN holders AS b ON a.hash = b.hash AND a.host < b.host GROUP BY a.host, b.host"
    ") AS each_way GROUP BY first_host, second_host HAVING sum(shared) > 0"
)


def numbered_rows(first: int | None, end: int | None) -> str:
    """Return NUMBERED_ROWS for the hashes (signed) from `first` to below `end`; None is an end of all hashes."""
    bounds = [f"traces.hash >= {first}"] if first is not None else []
    bounds += [f"traces.hash < {end}"] if end is not None else []
    return NUMBERED_ROWS + (f"WHERE {' AND '.join(bounds)}" if bounds else "")
