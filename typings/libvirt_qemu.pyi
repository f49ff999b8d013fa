# Types of the part of libvirt-python's QEMU module that samepaged and its tests use.

from typing import Final

from libvirt import virDomain

VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP: Final[int]

def qemuAgentCommand(domain: virDomain, cmd: str, timeout: int, flags: int) -> str: ...
def qemuMonitorCommand(domain: virDomain, cmd: str, flags: int) -> str: ...
