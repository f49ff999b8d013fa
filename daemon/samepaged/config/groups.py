"""Groups of guests that may share with each other: by name of domain, by metadata, by template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import InitErrorDetails, PydanticCustomError

from samepaged.config.group_names import GroupName, Template, group_in, is_group_name
from samepaged.config.section import Section, SomePatterns
from samepaged.errors import InvalidValueError
from samepaged.yaml_document import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT_GROUP", "GroupConfig", "GroupingConfig", "Groups", "MetadataSource"]

DEFAULT_GROUP: Final = "default"
"""The group of guests that nothing names a group for."""

MetadataSource = Literal["openstack", "kubevirt", "samepaged"]


class GroupConfig(Section):
    """Guests that may share memory with each other: a tenant, a project."""

    name: GroupName
    """The group's name, the value of the label `group`. Needed, and different from the other groups' names."""

    match: SomePatterns
    """Names of domains in the group, as patterns. Needed."""


def _distinct_names(value: Any, validate: ValidatorFunctionWrapHandler) -> tuple[GroupConfig, ...]:  # noqa: ANN401 - raw
    """Refuse a name's second use, together with (not instead of) what is wrong with the groups one by one."""
    wrong: list[InitErrorDetails] = []
    groups: tuple[GroupConfig, ...] = ()
    try:
        groups = validate(value)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            kind = PydanticCustomError(error["type"], "{message}", {**error.get("ctx", {}), "message": error["msg"]})
            wrong.append(InitErrorDetails(type=kind, loc=error["loc"], input=error["input"]))
    seen: set[str] = set()
    for index, group in enumerate(value if isinstance(value, list | tuple) else ()):
        name = group.get("name") if isinstance(group, dict) else getattr(group, "name", None)
        if not isinstance(name, str):
            continue
        if name in seen:
            reason = InvalidValueError(
                f"{shown(name)} is the name of an earlier group", "give each group a name of its own"
            )
            kind = PydanticCustomError("value_error", "{error}", {"error": reason})
            wrong.append(InitErrorDetails(type=kind, loc=(index, "name"), input=name))
        seen.add(name)
    if wrong:
        raise ValidationError.from_exception_data("groups", wrong)
    return groups


Groups = Annotated[tuple[GroupConfig, ...], WrapValidator(_distinct_names)]
"""Groups, each with a name of its own."""


def _in_order(sources: tuple[MetadataSource, ...]) -> tuple[MetadataSource, ...]:
    if len(set(sources)) < len(sources):
        raise InvalidValueError("lists a source twice", "list each once")
    return sources


class GroupingConfig(Section):
    """The group of a domain that no entry of `groups` matches. docs/operate/groups.md has the trust that this takes."""

    metadata: Annotated[tuple[MetadataSource, ...], AfterValidator(_in_order)] = ("openstack", "kubevirt")
    """Whose metadata in the domain's XML may name its group, the first first. Default openstack, then kubevirt."""

    names: tuple[Template, ...] = ()
    """Templates such as `{group}-*` for names of domains; the first that fits counts. Default none."""

    def group_of(self, name: str, metadata_groups: Mapping[str, str]) -> str | None:
        """The group of the domain `name`. `metadata_groups` has the groups in its metadata, by
        `MetadataSource`.
        """
        by_metadata = (_metadata_group(source, metadata_groups.get(source, "")) for source in self.metadata)
        by_name = (group_in(name, template) for template in self.names)
        return next((group for group in (*by_metadata, *by_name) if group is not None), None)


def _metadata_group(source: MetadataSource, name: str) -> str | None:
    # Whoever may choose a project or a Kubernetes namespace must not thereby get into a group of another origin.
    group = name if source == "samepaged" else f"{source}:{name}"
    return group if is_group_name(name) and is_group_name(group) else None
