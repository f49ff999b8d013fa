"""Generates the keys of docs/reference/configuration.md, and config.example.yaml, from the configuration's schema.

Types, bounds and descriptions come from the JSON schema of `Config`, defaults from `Config()`.
"""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any, Final

import yaml

from samepaged.config import Config
from samepaged.config.quantities import DURATION_UNITS, LONGEST_DURATION, SIZE_UNITS, duration_text
from tools.generate.files import TREE, table, with_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["EXAMPLE", "PAGE", "example", "generated", "parts"]

PAGE: Final = TREE / "docs/reference/configuration.md"
EXAMPLE: Final = TREE / "config.example.yaml"

WIDTH: Final = 120
COLUMNS: Final = ("key", "value", "default", "description")
INTRODUCTION: Final = """\
# samepaged: every key with its default. Keep only the keys that you change; a missing key has its default.
#
#   samepaged check-config FILE    prints every error in FILE with its line and column
#
"""

Schema = dict[str, Any]


def _listed(words: Sequence[str], last: str) -> str:
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else words[0]


FORMATS: Final[Mapping[str, str]] = {
    "absolute path": "a path that begins with `/`",
    "address": "`host:port`, or `[address]:port` for IPv6",
    "drift": "a number and `ppm`, such as `500ppm`, or a ratio",
    "duration": (
        f"a number and {_listed([f'`{unit}`' for unit in DURATION_UNITS], 'or')}, such as `250ms` or `1.5h`, or a "
        f"number of seconds; at most {duration_text(LONGEST_DURATION)}"
    ),
    "page size": "a size that is a power of two",
    "pattern": (
        "a shell pattern: `*` matches any text, `?` any character, `[abc]` one of these, `[!abc]` any other. It "
        "matches the whole name, case-sensitively. Quote patterns: `*`, `[` and `!` are special characters in YAML"
    ),
    "seed": "64 bits: a whole number, or `0x` and up to 16 hexadecimal digits in quotes",
    "size": (
        f"a number and {_listed([f'`{unit}`' for unit in SIZE_UNITS], 'or')}, such as `512MiB`, or a whole number of "
        "bytes"
    ),
    "template": (
        "the form of a whole name: `{group}` once, and at most one `*` for any text, with other text between the two. "
        "It is case-sensitive and must not contain other pattern characters. The group is the shortest match"
    ),
}
"""The written form of each `format` in the JSON schema."""


def generated() -> dict[Path, str | None]:
    """Return the page with its generated parts, and the example."""
    page = with_parts(str(PAGE.relative_to(TREE)), PAGE.read_text(encoding="utf-8"), parts())
    return {PAGE: page, EXAMPLE: example()}


def parts() -> dict[str, str]:
    """Return the generated parts of the page by the names of their markers."""
    forms = "".join(f"- **{name}**: {form}.\n" for name, form in FORMATS.items())
    return {"keys": "\n".join(_page_sections()), "value formats": forms}


def example() -> str:
    """Return the example: every key with its default, after a comment with its description and its form."""
    schema, defaults = _schema()
    text = INTRODUCTION + "".join(
        "\n".join(_comment(f"{name.capitalize()}: {form}.", "")) + "\n" for name, form in FORMATS.items()
    )
    for name, field in schema["properties"].items():
        section = _section(field, schema)
        text += "\n" + "".join(f"{line}\n" for line in _comment(_description(field, section), ""))
        if section is None:
            text += "".join(f"{line}\n" for line in _comment(_form_line(field), ""))
        if section is None or "items" in field:
            text += f"{name}: {_yaml(defaults[name])}\n"
            continue
        text += f"{name}:\n"
        for key, inner in section["properties"].items():
            lines = (*_comment(inner["description"], "  "), *_comment(_form_line(inner), "  "))
            text += "".join(f"{line}\n" for line in lines) + f"  {key}: {_yaml(defaults[name][key])}\n"
    return text


def _schema() -> tuple[Schema, dict[str, Any]]:
    """Return the JSON schema, and the default values in the form of a file."""
    return Config.model_json_schema(), Config().model_dump(mode="json")


def _section(field: Schema, schema: Schema) -> Schema | None:
    """Return the schema of the mapping in `field` or of the items of its list; None for other values."""
    reference = field.get("$ref") or field.get("items", {}).get("$ref")
    found: Schema | None = schema["$defs"][reference.rsplit("/", 1)[1]] if reference else None
    return found


def _description(field: Schema, section: Schema | None) -> str:
    text: str = field.get("description") or (section or {})["description"]
    return text


def _page_sections() -> Iterator[str]:
    schema, defaults = _schema()
    top = []
    for name, field in schema["properties"].items():
        section = _section(field, schema)
        if section is None:
            top.append(_row(name, field, defaults[name]))
            continue
        required = section.get("required", ())
        rows = (
            _row(
                f"{name}[].{key}" if "items" in field else f"{name}.{key}",
                inner,
                None if "items" in field else defaults[name][key],
                required=key in required,
            )
            for key, inner in section["properties"].items()
        )
        yield f"### `{name}`\n\n{_linked(_description(field, section))}\n\n{table(COLUMNS, rows)}"
    yield f"### Top-level keys\n\n{table(COLUMNS, top)}"


def _row(key: str, field: Schema, default: object, *, required: bool = False) -> tuple[str, ...]:
    shown = "required" if required else f"`{_yaml(default)}`"
    paragraphs = re.sub(r"\n *- ", "\n\n", _linked(field["description"])).split("\n\n")
    text = "<br>".join(" ".join(paragraph.removeprefix("- ").split()) for paragraph in paragraphs if paragraph.strip())
    return f"`{key}`", _form(field), shown, text


def _linked(text: str) -> str:
    """Return `text` with links in place of paths of pages."""
    return re.sub(r"\bdocs/([\w/-]+/)?([\w-]+\.md)(#[\w-]+)?", _link, text)


def _link(found: re.Match[str]) -> str:
    folder, name, anchor = found[1] or "", found[2], found[3] or ""
    return f"[{name}]({'' if folder == 'reference/' else f'../{folder}'}{name}{anchor})"


def _form_line(field: Schema) -> str:
    form = _form(field)
    return f"Value: {form}."


def _form(schema: Schema) -> str:
    """Return the type of a value, and its bounds."""
    if "anyOf" in schema:
        first, *others = map(_form, schema["anyOf"])
        return f"{first}{',' * (', ' in first)} or {' or '.join(others)}"
    if "enum" in schema:
        return _listed([f"`{_yaml(one)}`" for one in schema["enum"]], "or")
    if "format" in schema:
        return _bounded(schema["format"], schema)
    if schema["type"] == "array":
        notes = ["at least one"] * ("minItems" in schema) + ["each once"] * ("uniqueItems" in schema)
        items = schema["items"]
        each = _bounded(f"{items['format']}s", items) if "format" in items else _form(items)
        return ", ".join([f"list of {each}", *notes])
    if schema["type"] == "string":
        return f"text of at most {schema['maxLength']} characters" if "maxLength" in schema else "text"
    simple = {"boolean": "`true` or `false`", "null": "`null`", "integer": "whole number", "number": "number"}
    return _bounded(simple[schema["type"]], schema)


def _bounded(name: str, schema: Schema) -> str:
    least, above, most = (schema.get(bound) for bound in ("minimum", "exclusiveMinimum", "maximum"))
    if least is not None:
        return f"{name}, {least} to {most}" if most is not None else f"{name}, at least {least}"
    if above is not None:
        return f"{name} above {above}" + (f", at most {most}" if most is not None else "")
    return name


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def _comment(text: str, indent: str) -> Iterator[str]:
    """Yield `text` as comment lines: wraps paragraphs and list items, and keeps indented blocks unchanged."""
    first = f"{indent}# "
    for number, paragraph in enumerate(text.split("\n\n")):
        if paragraph.startswith("    "):
            yield f"{indent}#"
            yield from (first.rstrip() + line.removeprefix(" ") for line in paragraph.splitlines())
            continue
        items = re.split(r"\n(?=- )", paragraph)
        if number and not paragraph.startswith("- "):
            yield f"{indent}#"
        for item in items:
            rest = f"{first}  " if item.startswith("- ") else first
            words = " ".join(item.split())
            yield from textwrap.wrap(
                words,
                WIDTH,
                initial_indent=first,
                subsequent_indent=rest,
                break_long_words=False,
                break_on_hyphens=False,
            )
