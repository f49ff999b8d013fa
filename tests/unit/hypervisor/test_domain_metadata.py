from __future__ import annotations

from typing import get_args
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samepaged.config import DEFAULT_GROUP, Config, GroupingConfig, MetadataOrigin
from samepaged.errors import GuestError
from samepaged.hypervisor.guest import parse_domain_xml

NOVA_1_1 = "http://openstack.org/xmlns/libvirt/nova/1.1"
NOVA_1_0 = "http://openstack.org/xmlns/libvirt/nova/1.0"
PROJECT = "5f0a7c2b9d3e4816a2c4e6f80b1d3579"

# The forms that Nova and KubeVirt write, with the elements around the parsed ones.
NOVA = """\
<name>instance-0000002a</name>
<uuid>0b7f4c1e-6a52-4f0e-9c39-5d1f2a3b4c5d</uuid>
<metadata>
  <nova:instance xmlns:nova="{namespace}">
    <nova:package version="27.5.1"/>
    <nova:name>db &amp; cache</nova:name>
    <nova:creationTime>2026-03-02 08:15:30</nova:creationTime>
    <nova:flavor name="m1.small">
      <nova:memory>2048</nova:memory>
      <nova:disk>20</nova:disk>
      <nova:swap>0</nova:swap>
      <nova:ephemeral>0</nova:ephemeral>
      <nova:vcpus>1</nova:vcpus>
    </nova:flavor>
    <nova:owner>
      <nova:user uuid="c1d2e3f405162738495a6b7c8d9e0f10">alice</nova:user>
      <nova:project uuid="{project}">shop</nova:project>
    </nova:owner>
    <nova:root type="image" uuid="7e6d5c4b-3a29-4817-8605-f4e3d2c1b0a9"/>
    <nova:ports>
      <nova:port uuid="1a2b3c4d-5e6f-4071-8293-a4b5c6d7e8f9">
        <nova:ip type="fixed" address="192.0.2.10" ipVersion="4"/>
      </nova:port>
    </nova:ports>
  </nova:instance>
</metadata>
"""
KUBEVIRT = """\
<name>{name}</name>
<uuid>2c3d4e5f-6071-5283-94a5-b6c7d8e9f0a1</uuid>
<metadata>
  <kubevirt xmlns="http://kubevirt.io">
    <uid>9f8e7d6c-5b4a-4392-8170-6f5e4d3c2b1a</uid>
    <graceperiod>
      <deletionGracePeriodSeconds>30</deletionGracePeriodSeconds>
    </graceperiod>
  </kubevirt>
</metadata>
"""
OWN = "<metadata><samepaged:scan xmlns:samepaged='urn:samepaged:domain:1' {}/></metadata>"


def claims(inside: str) -> dict[str, str]:
    return dict(
        parse_domain_xml(
            f"<domain type='kvm' id='3'>{inside}<memory unit='KiB'>131072</memory></domain>"
        ).metadata_groups
    )


@pytest.mark.parametrize("namespace", [NOVA_1_1, NOVA_1_0])
def test_openstack_group_is_project_uuid(namespace: str) -> None:
    assert claims(NOVA.format(namespace=namespace, project=PROJECT)) == {"openstack": PROJECT}


def test_kubevirt_group_is_namespace() -> None:
    assert claims(KUBEVIRT.format(name="shop-1_web-a.b")) == {"kubevirt": "shop-1"}


@pytest.mark.parametrize("name", ["web", "_web", "Shop_web", "-shop_web", f"{'a' * 64}_web", "é_web", ""])
def test_invalid_kubevirt_name_has_no_group(name: str) -> None:
    assert claims(KUBEVIRT.format(name=name)) == {}


def test_kubevirt_name_needs_metadata() -> None:
    assert claims("<name>shop_web</name>") == {}


@pytest.mark.parametrize("attributes", ["group='shop'", "enabled='yes' group=' shop '"])
def test_samepageds_own_element_names_a_group(attributes: str) -> None:
    assert claims(OWN.format(attributes)) == {"samepaged": "shop"}


def test_opt_out_with_group_opts_out() -> None:
    inside = OWN.format("enabled='no' group='shop'")
    assert parse_domain_xml(f"<domain>{inside}<memory>4096</memory></domain>").opt_out is not None


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "<metadata/>",
        OWN.format(""),
        OWN.format("group=''"),
        OWN.format("group=' '"),
        "<metadata><x:scan xmlns:x='urn:samepaged:domain:2' group='shop'/></metadata>",
        "<metadata><scan group='shop'/></metadata>",
        "<metadata><n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'/></metadata>",
        "<metadata><instance><owner><project uuid='a'>b</project></owner></instance></metadata>",
        "<description>&lt;nova:project uuid='a'/&gt;</description>",
        NOVA.format(namespace=NOVA_1_1, project=""),
        NOVA.format(namespace="http://example.org/nova/1.1", project=PROJECT),
    ],
)
def test_other_metadata_names_no_group(metadata: str) -> None:
    assert claims(metadata) == {}


def test_groups_come_only_from_metadata() -> None:
    inside = NOVA.format(namespace=NOVA_1_1, project=PROJECT)
    assert claims(inside.replace("<metadata>", "<devices>").replace("</metadata>", "</devices>")) == {}


def test_who_names_two_groups_names_none() -> None:
    first, second = (NOVA.format(namespace=NOVA_1_1, project=project) for project in (PROJECT, "f" * 32))
    assert claims(first + second) == {}
    assert claims(first + first) == {"openstack": PROJECT}
    assert claims(first + NOVA.format(namespace=NOVA_1_0, project="f" * 32)) == {}
    assert claims(OWN.format("group='a'") + OWN.format("group='b'")) == {}


def test_every_group_source_is_read() -> None:
    found = claims(
        KUBEVIRT.format(name="shop_web") + NOVA.format(namespace=NOVA_1_1, project=PROJECT) + OWN.format("group='a'")
    )
    assert set(found) == set(get_args(MetadataOrigin))


NAMES = st.sampled_from(
    [
        *(f"{{{nova}}}{tag}" for nova in (NOVA_1_1, NOVA_1_0) for tag in ("instance", "owner", "project")),
        *("{http://kubevirt.io}kubevirt", "{urn:samepaged:domain:1}scan", "metadata", "name", "other"),
    ]
)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=200)
ELEMENTS: st.SearchStrategy[ET.Element] = st.deferred(
    lambda: st.builds(
        element, NAMES, st.dictionaries(st.sampled_from(["uuid", "group", "enabled"]), TEXTS), TEXTS, CHILDREN
    )
)
CHILDREN: st.SearchStrategy[list[ET.Element]] = st.lists(ELEMENTS, max_size=3)
EVERY_SOURCE = Config(grouping=GroupingConfig(metadata=("openstack", "kubevirt", "samepaged"), names=("{group}-*",)))


def element(name: str, attributes: dict[str, str], text: str, children: list[ET.Element]) -> ET.Element:
    made = ET.Element(name, attributes)
    made.text = text
    made.extend(children)
    return made


def nova(uuids: list[str]) -> ET.Element:
    projects = [element(f"{{{NOVA_1_1}}}project", {"uuid": uuid}, "", []) for uuid in uuids]
    return element(f"{{{NOVA_1_1}}}instance", {}, "", [element(f"{{{NOVA_1_1}}}owner", {}, "", projects)])


# Elements as deep as the parsed ones, which random generation seldom builds.
CLAIMS = st.one_of(
    st.lists(TEXTS, min_size=1, max_size=2).map(nova),
    st.just(element("{http://kubevirt.io}kubevirt", {}, "", [])),
    TEXTS.map(lambda group: element("{urn:samepaged:domain:1}scan", {"group": group}, "", [])),
)
METADATA = st.lists(CLAIMS, max_size=3).map(lambda claims: [element("metadata", {}, "", claims)])


@given(st.one_of(CHILDREN, METADATA), st.one_of(TEXTS, st.from_regex(r"[a-z0-9-]{1,70}[_-]x", fullmatch=True)))
@example([element("metadata", {}, "", [nova(["0a1b"])])], "web-1")
def test_any_metadata_gives_valid_label(children: list[ET.Element], name: str) -> None:
    root = ET.Element("domain")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "memory").text = "4096"
    root.extend(children)
    try:
        hardware = parse_domain_xml(ET.tostring(root, encoding="unicode"))
    except GuestError:
        assert name != "web-1"
        return
    group = EVERY_SOURCE.group_of(name, hardware.metadata_groups)
    assert 0 < len(group) <= 128
    assert group.isprintable()
    assert group == group.strip()
    claimed = hardware.metadata_groups
    origins = {f"openstack:{claimed.get('openstack')}", f"kubevirt:{claimed.get('kubevirt')}", DEFAULT_GROUP}
    assert group in origins | {claimed.get("samepaged")} or name.startswith(f"{group}-")


@given(st.text(alphabet="<>/='\" :metadatnovpscgru_{}", max_size=120))
@example(f"<s:scan xmlns:s='{'urn:samepaged:domain:1'}' group='a'/>")
def test_any_metadata_parses_or_raises(text: str) -> None:
    try:
        found = claims(f"<metadata>{text}</metadata>")
    except GuestError:
        assert "group='a'" not in text
        return
    assert found.keys() <= {"openstack", "kubevirt", "samepaged"}
