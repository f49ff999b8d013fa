"""The Prometheus rules: their series, annotations, runbooks and tests. promtool tests the alerts themselves."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from samepaged.errors import Reason

TREE = Path(__file__).parents[2]
PROMETHEUS = TREE / "observability" / "prometheus"
RULES = PROMETHEUS / "samepaged.rules.yml"
RUNBOOKS = TREE / "docs/operate/runbooks.md"
METRICS = TREE / "docs/reference/metrics.md"


def rules(kind: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rules by name. `kind` is record or alert."""
    found: dict[str, list[dict[str, Any]]] = {}
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            if kind in rule:
                found.setdefault(rule[kind], []).append(rule)
    return found


def asked() -> set[str]:
    """Return all metrics in rules, including recorded series."""
    expressions = [rule["expr"] for kind in ("record", "alert") for many in rules(kind).values() for rule in many]
    words = {word for expression in expressions for word in re.findall(r"[a-z][\w:]*", unquoted(expression))}
    return {word for word in words if "samepage" in word}


def unquoted(expression: str) -> str:
    return re.sub(r'"[^"]*"', "", expression)


def exported() -> set[str]:
    return set(re.findall(r"^\| `(\w+)` \|", METRICS.read_text(encoding="utf-8"), re.MULTILINE))


def cases() -> dict[str, Counter[str]]:
    """Return the number of firing and silent test cases of each alert."""
    found: dict[str, Counter[str]] = {}
    for path in PROMETHEUS.glob("tests/*_test.yml"):
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for case in test["alert_rule_test"]:
                found.setdefault(case["alertname"], Counter())["fires" if case.get("exp_alerts") else "silent"] += 1
    return found


def sections() -> list[str]:
    return re.findall(r"^## (.*)$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)


def test_rules_use_existing_series() -> None:
    assert asked() - exported() - rules("record").keys() == set()


def test_recorded_series_are_used() -> None:
    records = rules("record").keys()

    assert records <= asked()
    assert [name for name in records if not re.fullmatch(r"[a-z_]+:samepage_\w+:[a-z0-9]+", name)] == []


def test_rules_use_existing_reasons() -> None:
    text = RULES.read_text(encoding="utf-8")
    named = {reason for matcher in re.findall(r'reason!?[=~]+"([^"]*)"', text) for reason in matcher.split("|")}

    assert named
    assert named <= {reason.value for reason in Reason if not reason.intended}


def test_alerts_have_severity_and_summary() -> None:
    for name, (alert,) in rules("alert").items():
        assert alert["labels"]["severity"] in {"critical", "warning"}, name
        for annotation in ("summary", "description"):
            assert "\n" not in alert["annotations"][annotation], name
        assert re.search(r"\$labels\.(domain|group|instance)\b", alert["annotations"]["summary"]), name
        assert "$labels.instance" in alert["annotations"]["description"], name


def test_alert_values_are_formatted() -> None:
    for name, (alert,) in rules("alert").items():
        for text in alert["annotations"].values():
            assert not re.search(r"\$value(?! \| humanize)", text), name


def test_alerts_link_to_runbooks() -> None:
    alerts = rules("alert")

    assert sorted(alerts) == sorted(sections())
    for name, (alert,) in alerts.items():
        assert alert["annotations"]["runbook_url"] == f"docs/operate/runbooks.md#{name.lower()}"


def test_runbook_sections_are_complete() -> None:
    _, *bodies = re.split(r"^## ", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for body in bodies:
        assert re.findall(r"^\*\*(.*?)\*\*", body, re.MULTILINE) == ["Meaning:", "Check", "Remedy:"], body


def test_runbook_queries_use_existing_series() -> None:
    named = set(re.findall(r"\bsamepage_\w+", RUNBOOKS.read_text(encoding="utf-8")))
    histogram = re.compile("_(sum|count|bucket)$")

    assert {name for name in named if name not in exported() and histogram.sub("", name) not in exported()} == set()


def test_alerts_have_firing_and_silent_tests() -> None:
    alerts = rules("alert").keys()

    assert cases().keys() == alerts
    assert {name for name in alerts if not cases()[name]["fires"]} == set()
    assert {name for name in alerts if not cases()[name]["silent"]} == set()
