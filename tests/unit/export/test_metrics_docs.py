from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families as parse_text

from samepaged.errors import Reason
from samepaged.export.metrics import SnapshotCollector, render
from tests.unit.export.builders import full_snapshot

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


class Row(NamedTuple):
    name: str
    type: str
    labels: str
    unit: str
    meaning: str
    symbol: str
    example: str


def rows() -> list[Row]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `samepage_")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [Row(*(cell.strip().replace(r"\|", "|") for cell in row)) for row in cells]


def exported() -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels by the name that the text format gives a metric."""
    source = CollectorRegistry()
    source.register(SnapshotCollector(full_snapshot()))
    return {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            frozenset(label for sample in family.samples for label in sample.labels) - {"le"},
        )
        for family in parse_text(render(source, openmetrics=False).decode())
    }


def test_the_page_names_exactly_the_metrics_that_there_are_with_their_types_and_labels() -> None:
    written = {row.name.strip("`"): (row.type, frozenset(re.findall(r"`(\w+)`", row.labels))) for row in rows()}

    assert written == exported()
    assert len(rows()) == len(written)


def test_every_unit_is_the_one_in_the_name() -> None:
    for row in rows():
        base = re.search(r"_(bytes|seconds|ratio)`$", row.name)
        assert not base or row.unit.startswith(base[1])


def test_every_reason_of_a_failure_is_explained() -> None:
    explained = re.findall(r"^\| `([a-z_]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

    assert [name for name in explained if not name.startswith("samepage_")] == [
        reason.value for reason in Reason if not reason.intended
    ]


def test_every_example_is_a_query_about_its_metric(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: it is in the package prometheus")
    for row in rows():
        assert row.name.strip("`") in row.example
    rules = [{"record": f"example:{number}", "expr": row.example.strip("`")} for number, row in enumerate(rows())]
    path = tmp_path / "rules.yml"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "examples", "rules": rules}]}), encoding="utf-8")
    checked = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stderr
