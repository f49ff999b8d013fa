"""The group of a real guest: from its metadata, unless this host's configuration overrides it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import libvirt

from tests.support.guests import Spec, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Samepaged
    from tests.support.guests import Writer

PROJECT = "5f0a7c2b9d3e4816a2c4e6f80b1d3579"
NOVA = f"""
<metadata>
  <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
    <nova:name>web</nova:name>
    <nova:flavor name="m1.tiny"><nova:memory>84</nova:memory></nova:flavor>
    <nova:owner>
      <nova:user uuid="c1d2e3f405162738495a6b7c8d9e0f10">alice</nova:user>
      <nova:project uuid="{PROJECT}">shop</nova:project>
    </nova:owner>
  </nova:instance>
</metadata>
"""


def groups(scan: dict[str, Any]) -> dict[str, str]:
    return {domain["name"]: domain["group"] for domain in scan["domains"]}


def test_a_guest_of_openstack_is_in_its_projects_group_unless_the_configuration_names_another(
    samepaged: Samepaged, pair: list[Writer], connection: Any, root: Path
) -> None:
    a, b = pair
    spec = Spec("samepaged-test-instance-2a", memory=84, cmdline="region=1", metadata=NOVA)
    with running(connection, root, spec):
        scan = samepaged.scan()
        assert groups(scan) == {a.name: "default", b.name: "default", spec.name: f"openstack:{PROJECT}"}
        within = {group["name"]: group["inter_sharing_pages"] for group in scan["groups"]}
        # The three have a kernel in common: across groups that is the host's alone.
        assert within[f"openstack:{PROJECT}"] == 0
        assert scan["inter_sharing_pages"] > within["default"] > 0

        samepaged.configure(f"groups: [{{name: mine, match: ['{spec.name}']}}]")
        assert groups(samepaged.scan(spec.name)) == {spec.name: "mine"}
        samepaged.configure("grouping: {metadata: [], names: ['samepaged-{group}-*']}")
        assert groups(samepaged.scan(spec.name)) == {spec.name: "test"}


def test_samepageds_own_metadata_counts_only_where_the_operator_takes_it(
    samepaged: Samepaged, pair: list[Writer]
) -> None:
    _, b = pair
    element, live = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_LIVE
    b.domain.setMetadata(element, '<scan group="shop"/>', "samepaged", "urn:samepaged:domain:1", live)
    try:
        assert groups(samepaged.scan(b.name)) == {b.name: "default"}
        samepaged.configure("grouping: {metadata: [samepaged]}")
        assert groups(samepaged.scan(b.name)) == {b.name: "shop"}
    finally:
        b.domain.setMetadata(element, None, "samepaged", "urn:samepaged:domain:1", live)
