from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.config import DEFAULT_GROUP, Config, GroupConfig, GroupingConfig, parse
from samepaged.config.group_names import group_in, is_group_name

PAGE = (Path(__file__).parents[3] / "docs/operate/groups.md").read_text()


@pytest.mark.parametrize(
    ("template", "name", "group"),
    [
        ("{group}-*", "shop-web-1", "shop"),
        ("{group}-*", "shop-", "shop"),
        ("{group}-*", "shop", None),
        ("{group}-*", "-web", None),
        ("{group}-*", "", None),
        ("*-{group}", "web-1-shop", "shop"),
        ("*-{group}", "-shop", "shop"),
        ("*-{group}", "shop", None),
        ("*-{group}", "shop-", None),
        ("vm-{group}-*", "vm-shop-web", "shop"),
        ("vm-{group}-*", "xvm-shop-web", None),
        ("vm-{group}-*", "vm-", None),
        ("vm-{group}-*", "vm--web", None),
        ("{group}-*.example", "shop-web.example", "shop"),
        ("{group}-*.example", "shop-.example", "shop"),
        ("{group}-*.example", "shop.example", None),
        ("{group}.*.example", "shop.example", None),
        ("{group}.*.example", "shop..example", "shop"),
        ("web*-{group}.example", "web-1-shop.example", "shop"),
        ("web*-{group}.example", "web.example", None),
        ("aa*a-{group}", "aa-x", None),
        ("{group}_web", "a_b_web", "a_b"),
        ("vm{group}vm", "vmvm", None),
        ("vm{group}vm", "vm", None),
        ("{group}", "shop", "shop"),
        ("{group}", "", None),
        ("SHOP-{group}", "shop-a", None),
        ("{group}.+-*", "shop.+-a", "shop"),
        ("{group}.+-*", "shop--a", None),
        ("{group}-*", "a\tb-1", None),
        ("{group}-*", "a\u202eb-1", None),
        ("{group}-*", "\udcff-1", None),
        ("{group}-*", " a-1", None),
        ("{group}-*", f"{'a' * 128}-1", "a" * 128),
        ("{group}-*", f"{'a' * 129}-1", None),
    ],
)
def test_template_finds_the_group(template: str, name: str, group: str | None) -> None:
    assert GroupingConfig(names=(template,)).group_of(name, {}) == group


PIECES = st.text(alphabet="ab-.", max_size=3)
FORMS = st.one_of(
    st.tuples(PIECES, st.just("{group}"), PIECES),
    st.tuples(PIECES, st.just("{group}"), PIECES.filter(bool), st.just("*"), PIECES),
    st.tuples(PIECES, st.just("*"), PIECES.filter(bool), st.just("{group}"), PIECES),
)


@given(FORMS, st.text(alphabet="ab-.", max_size=12))
def test_template_equals_regular_expression(form: tuple[str, ...], name: str) -> None:
    template = "".join(form)
    lazy = form.index("*") > 1 if "*" in form else True
    written = {"{group}": "(.*?)" if lazy else "(.*)", "*": ".*"}
    found = re.fullmatch("".join(written.get(piece, re.escape(piece)) for piece in form), name)
    assert GroupingConfig(names=(template,)).group_of(name, {}) == (found[1] or None if found else None)


@given(FORMS, st.text(max_size=40), st.text(max_size=40))
def test_template_result_is_a_valid_label(form: tuple[str, ...], group: str, other: str) -> None:
    template = "".join(form)
    found = group_in(template.replace("{group}", group).replace("*", other), template)
    assert found is None or is_group_name(found)


def test_long_name_matches_in_bounded_time() -> None:
    template = "{group}" + "a" * 400 + "*b"
    assert group_in("a" * 100_000, template) is None
    assert group_in("c" + "a" * 100_000 + "b", template) == "c"


GROUPS = (GroupConfig(name="mine", match=("vm-1",)),)
CLAIMS = {"openstack": "0a1b", "kubevirt": "shop", "samepaged": "own"}


@pytest.mark.parametrize(
    ("config", "name", "claims", "group"),
    [
        (Config(), "vm-1", {}, DEFAULT_GROUP),
        (Config(), "vm-1", CLAIMS, "openstack:0a1b"),
        (Config(), "vm-1", {"kubevirt": "shop"}, "kubevirt:shop"),
        (Config(), "vm-1", {"samepaged": "own"}, DEFAULT_GROUP),
        (Config(groups=GROUPS), "vm-1", CLAIMS, "mine"),
        (Config(groups=GROUPS), "vm-2", CLAIMS, "openstack:0a1b"),
        (Config(grouping=GroupingConfig(metadata=("samepaged", "openstack"))), "vm-1", CLAIMS, "own"),
        (Config(grouping=GroupingConfig(metadata=("kubevirt", "openstack"))), "vm-1", CLAIMS, "kubevirt:shop"),
        (Config(grouping=GroupingConfig(metadata=())), "vm-1", CLAIMS, DEFAULT_GROUP),
        (Config(grouping=GroupingConfig(names=("{group}-*",))), "vm-1", CLAIMS, "openstack:0a1b"),
        (Config(grouping=GroupingConfig(names=("{group}-*",))), "vm-1", {}, "vm"),
        (Config(grouping=GroupingConfig(names=("{group}.*", "*-{group}", "{group}-*"))), "vm-1", {}, "1"),
        (Config(groups=GROUPS, grouping=GroupingConfig(names=("{group}-*",))), "vm-1", {}, "mine"),
    ],
)
def test_group_precedence(config: Config, name: str, claims: dict[str, str], group: str) -> None:
    assert config.group_of(name, claims) == group


@pytest.mark.parametrize("claim", ["", " ", " a", "a\nb", "a\u200b", "\udcff", "x" * 129])
def test_invalid_claim_is_ignored(claim: str) -> None:
    grouping = GroupingConfig(metadata=("openstack", "kubevirt", "samepaged"))
    claims = {"openstack": claim, "kubevirt": claim, "samepaged": claim}
    assert Config(grouping=grouping).group_of("vm-1", claims) == DEFAULT_GROUP


def test_metadata_origins_do_not_mix() -> None:
    config = Config(groups=(GroupConfig(name="shop", match=("web-*",)),), grouping=GroupingConfig(names=("{group}-*",)))
    groups = [
        config.group_of("web-1"),
        config.group_of("instance-1", {"openstack": "shop"}),
        config.group_of("shop_vm", {"kubevirt": "shop"}),
        config.group_of("default_vm", {"kubevirt": DEFAULT_GROUP}),
        config.group_of("vm"),
    ]
    assert len(set(groups)) == len(groups)


def test_documented_groups_configuration_is_valid() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    config = parse(block, "groups.md")
    assert [config.group_of(name) for name in ("dns-1", "shop-web")] == ["infrastructure", "shop"]


def test_documented_templates_find_groups() -> None:
    rows = [[cell.strip(' `"') for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if "|" in line]
    first = next(index for index, row in enumerate(rows) if row[0] == "template")
    (_, *names), _, *shown = rows[first:]
    assert shown
    for template, *groups in shown:
        assert [group_in(name, template) or "" for name in names] == groups
