"""Jinja2 environments for the HTML that samepaged writes. They read all templates of a package at once."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

# Jinja2 imports it when a template fails. By then an upgrade may have replaced the file, or no descriptor may be left.
import jinja2.debug  # noqa: F401
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from samepaged.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["load_templates"]


def load_templates(package: str, filters: Mapping[str, Callable[..., object]]) -> Environment:
    """The compiled templates (`templates/*.html`) of `package`. Later use of the environment opens no file.

    Values are escaped for HTML; characters that do not print (control, bidi, surrogates) become escape sequences. An
    undefined name is an error. Templates may be indented: the indentation is not sent.
    """
    sources = {
        file.name: _without_indentation(file.read_text(encoding="utf-8"))
        for file in (files(package) / "templates").iterdir()
        if file.name.endswith(".html")
    }
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    environment.filters.update(filters)
    for name in sources:
        environment.get_template(name)
    return environment


def _without_indentation(source: str) -> str:
    return "\n".join(line.strip() for line in source.splitlines())


def _printable(value: object) -> object:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
