"""Groups of guests that may share memory with each other: by name of domain, by metadata, by template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import InitErrorDetails, PydanticCustomError

from samepaged.config.group_names import GroupName, Template, group_in, is_group_name
from samepaged.config.section import Section, SomePatterns
from samepaged.errors import InvalidValueError
from samepaged.yaml_document import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT_GROUP", "GroupConfig", "GroupingConfig", "Groups", "MetadataOrigin"]

DEFAULT_GROUP: Final = "default"
"""The group of guests without another group."""

MetadataOrigin = Literal["openstack", "kubevirt", "samepaged"]


class GroupConfig(Section):
    """Guests that may share memory with each other, such as those of a tenant or a project."""

    name: GroupName
    """Name of the group, printable and unique. It is the value of the label `group`."""

    match: SomePatterns
    """Names of the domains in the group."""


def _distinct_names(value: Any, validate: ValidatorFunctionWrapHandler) -> tuple[GroupConfig, ...]:  # noqa: ANN401 - raw
    """Refuse a repeated name, in addition to the errors of each single group."""
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
                f"{shown(name)} is the name of an earlier group", "give each group a unique name"
            )
            kind = PydanticCustomError("value_error", "{error}", {"error": reason})
            wrong.append(InitErrorDetails(type=kind, loc=(index, "name"), input=name))
        seen.add(name)
    if wrong:
        raise ValidationError.from_exception_data("groups", wrong)
    return groups


Groups = Annotated[tuple[GroupConfig, ...], WrapValidator(_distinct_names)]
"""Groups with unique names."""


def _in_order(sources: tuple[MetadataOrigin, ...]) -> tuple[MetadataOrigin, ...]:
    if len(set(sources)) < len(sources):
        raise InvalidValueError("lists a source twice", "list each once")
    return sources


class GroupingConfig(Section):
    """Sources of the group of a guest that no entry of `groups` matches. A guest without a group belongs to the group
    `default`. Anyone with write access to a source controls the sharing between tenants; see docs/operate/groups.md.
    """

    metadata: Annotated[
        tuple[MetadataOrigin, ...], AfterValidator(_in_order), Field(json_schema_extra={"uniqueItems": True})
    ] = ("openstack", "kubevirt")
    """Sources of the group in the metadata of the domain's XML; the first one that names a group applies. `[]`
    disables them.

    - `openstack`: the group is `openstack:UUID`, with the UUID of the project.
    - `kubevirt`: the group is `kubevirt:NAMESPACE`.
    - `samepaged`: the group is the attribute `group` of `<samepaged:scan xmlns:samepaged="urn:samepaged:domain:1"
      group="shop"/>`. Anyone with access to the domain's metadata can set it: use it only if tenants lack this
      access.
    """

    names: tuple[Template, ...] = ()
    """Templates for domain names that begin or end with the tenant; the first one that matches applies. `"{group}-*"`
    takes the text before the first hyphen, `"*.{group}"` the text after the last dot.
    """

    def group_of(self, name: str, metadata_groups: Mapping[str, str]) -> str | None:
        """Return the group of the domain `name`, or None. `metadata_groups` has the groups in its metadata by
        `MetadataOrigin`.
        """
        by_metadata = (_metadata_group(source, metadata_groups.get(source, "")) for source in self.metadata)
        by_name = (group_in(name, template) for template in self.names)
        return next((group for group in (*by_metadata, *by_name) if group is not None), None)


def _metadata_group(source: MetadataOrigin, name: str) -> str | None:
    # The right to choose a project or a Kubernetes namespace must not give access to a group of another origin.
    group = name if source == "samepaged" else f"{source}:{name}"
    return group if is_group_name(name) and is_group_name(group) else None
