"""The metadata in a domain's XML: its group, and an opt-out (libvirt: formatdomain, 'General metadata')."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree.ElementTree import Element

__all__ = ["NAMESPACE", "metadata_groups", "opt_out"]

# libvirt keeps one element of a namespace, so one element has all attributes: <scan enabled="no" group="a"/>.
NAMESPACE: Final = "urn:samepaged:domain:1"
# As nova/virt/libvirt/config.py writes them; an instance keeps what it was started with.
NOVA: Final = ("http://openstack.org/xmlns/libvirt/nova/1.1", "http://openstack.org/xmlns/libvirt/nova/1.0")
KUBEVIRT: Final = "http://kubevirt.io"
# NAMESPACE_NAME. A Kubernetes namespace is a label (RFC 1123, 2.1), without underscores: there is one way to read it.
KUBEVIRT_NAME: Final = re.compile(r"([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)_")
YES: Final = frozenset({"yes", "true", "on", "1"})


def metadata_groups(root: Element) -> dict[str, str]:
    """The group in each kind of metadata of the domain `root`: `openstack` (the project's UUID: its name is unique only
    within a domain of Keystone), `kubevirt` (the namespace), `samepaged` (as written). A kind of metadata that names
    no group, or more than one, is left out.
    """
    named = {
        "openstack": set(_projects(root)),
        "kubevirt": {_kubernetes_namespace(root)},
        "samepaged": {scan.get("group", "").strip() for scan in root.iterfind(f"./metadata/{{{NAMESPACE}}}scan")},
    }
    return {source: next(iter(groups)) for source, groups in named.items() if len(groups) == 1 and "" not in groups}


def _projects(root: Element) -> Iterator[str]:
    for nova in NOVA:
        path = "/".join(f"{{{nova}}}{tag}" for tag in ("instance", "owner", "project"))
        for project in root.iterfind(f"./metadata/{path}"):
            yield project.get("uuid", "").strip()


def _kubernetes_namespace(root: Element) -> str:
    # The namespace is in the name alone; the element proves that KubeVirt chose the name.
    name = KUBEVIRT_NAME.match(root.findtext("./name") or "")
    return name[1] if name and root.find(f"./metadata/{{{KUBEVIRT}}}kubevirt") is not None else ""


def opt_out(root: Element) -> str | None:
    """The metadata's element against a scan, or None. Any value of `enabled` other than a clear yes opts out."""
    for element in root.iterfind("./metadata/*"):
        namespace, _, tag = element.tag.rpartition("}")
        enabled = element.get("enabled", "yes").strip().lower()
        # A mistake in the last part of the namespace does not undo the opt-out.
        if tag == "scan" and "samepaged" in namespace.lower() and enabled not in YES:
            return f"<samepaged:scan enabled={enabled[:20]!r}>"
    return None
