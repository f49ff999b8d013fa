from __future__ import annotations

import ast
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
from samepaged.export.merging_metrics import OBSTACLES
from samepaged.export.metrics import SnapshotCollector, render
from tests.unit.export.builders import full_snapshot

TREE = Path(__file__).parents[3]
PAGE = TREE / "docs" / "metrics.md"


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


def explained(what: str) -> list[str]:
    """The words of the table whose first column is `what`."""
    _, _, table = PAGE.read_text(encoding="utf-8").partition(f"\n| {what} | the domain |\n|---|---|\n")
    return re.findall(r"^\| `([a-z_]+)` \|", table.partition("\n\n")[0], re.MULTILINE)


def obstacles() -> set[str]:
    """The codes that the daemon gives to what keeps it from scanning as preferred."""
    calls = [
        node
        for path in TREE.glob("daemon/samepaged/**/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Obstacle"
    ]
    return {ast.literal_eval(call.args[0]) for call in calls}


def help_of(name: str) -> str:
    source = CollectorRegistry()
    source.register(SnapshotCollector(full_snapshot()))
    text = render(source, openmetrics=False).decode()
    return next(line for line in text.splitlines() if line.startswith(f"# HELP {name} "))


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
    assert explained("failure") == [reason.value for reason in Reason if not reason.intended]


def test_every_reason_of_a_fallback_is_explained_on_the_page_and_in_the_help() -> None:
    words = explained("fallback")

    assert set(words) == obstacles()
    assert re.findall(r"(\w+) \(", help_of("samepage_domain_fallback_info")) == words


def test_every_obstacle_to_merging_is_explained_on_the_page_and_in_the_help() -> None:
    assert explained("obstacle") == list(OBSTACLES)
    assert re.findall(r"(\w+) \(", help_of("samepage_domain_merge_obstacle_info"))[: len(OBSTACLES)]


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
