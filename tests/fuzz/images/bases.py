"""The undamaged images: guests with several kernels, booted once and kept in the cache."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Final

__all__ = ["KERNELS", "image"]

CACHE: Final = Path(__file__).parents[3] / ".cache" / "fuzz" / "images"
# The older kernel keeps the areas of a process in red-black trees, the newer ones in maple trees.
KERNELS: Final = ("5.10", "6.1", "6.12")
# MiB; the minimum with which these guests boot.
MEMORY: Final = 112


def image(series: str) -> Path:
    """Return the raw RAM image of an idle guest with a kernel of this series. The boot requires root and takes half a
    minute.
    """
    path = CACHE / f"{series}.img"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        _boot(series, path)
    return path


def _boot(series: str, path: Path) -> None:
    # To run an image again, the packages that boot guests are not needed.
    import libvirt  # noqa: PLC0415 - see above
    import libvirt_qemu  # noqa: PLC0415 - see above

    from tests.support.attribution import guests, kernels, memory_image  # noqa: PLC0415 - see above
    from tests.support.guests import Spec  # noqa: PLC0415 - see above
    from tests.support.libvirtd import private_libvirtd  # noqa: PLC0415 - see above

    print(f"booting a guest with Linux {series}", flush=True)
    spec = Spec(
        f"fuzz-{series}",
        memory=MEMORY,
        image=memory_image.image("idle", memory_image.IDLE),
        kernel=kernels.kernel(series),
    )
    with (
        tempfile.TemporaryDirectory(prefix="spf-") as directory,
        private_libvirtd(Path(directory) / "libvirt") as daemon,
        contextlib.closing(libvirt.open(daemon.uri)) as connection,
        guests.initramfs(connection, Path(directory), spec) as (guest,),
    ):
        guest.domain.suspend()
        saved = Path(directory) / "ram"
        asked = f'pmemsave 0 {MEMORY << 20} "{saved}"'
        libvirt_qemu.qemuMonitorCommand(guest.domain, asked, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
        kept = path.with_suffix(".part")
        kept.write_bytes(saved.read_bytes())
        kept.replace(path)
