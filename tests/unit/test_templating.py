from __future__ import annotations

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from samepaged.templating import load_templates

ENVIRONMENT = load_templates("samepaged.analysis.study", {})


def render(template: str, **values: object) -> str:
    return ENVIRONMENT.from_string(template).render(values)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<b>&'\"", "&lt;b&gt;&amp;&#39;&#34;"),
        ("a\u202eb\x00\n", "a\\u202eb\\x00\\n"),
        ("\udcff", "\\udcff"),
    ],
    ids=["markup", "control characters", "lone surrogate"],
)
def test_hostile_text_is_escaped(name: str, shown: str) -> None:
    assert render("{{ name }}", name=name) == shown
    assert render('<i title="{{ name }}"/>', name=name) == f'<i title="{shown}"/>'
    assert render("{% macro m(x) %}{{ x }}{% endmacro %}{{ m(name) }}", name=name) == shown


def test_markup_stays_markup() -> None:
    assert render("{{ name }}", name=Markup("<b>\n</b>")) == "<b>\n</b>"


def test_undefined_names_are_errors() -> None:
    with pytest.raises(UndefinedError):
        render("{{ nmae }}", name="web")


def test_templates_are_loaded_without_indentation() -> None:
    html = ENVIRONMENT.get_template("report.html").render(title="T", introduction="", sections=[], style="")
    assert not any(line.startswith(" ") for line in html.splitlines())
