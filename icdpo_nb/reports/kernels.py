"""The manager of a run's kernel: private sockets, not ports; an end at once, but time for those that clean up after others."""

import asyncio
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from jupyter_client import AsyncKernelManager

GRACE = 3.0  # seconds at most that a kernel has to end by SIGTERM
LONGEST = 100  # bytes of a socket's path; systems allow 104 to 108


class KernelManager(AsyncKernelManager):
    """Reaches its kernel through sockets in a folder of its own, and ends it with SIGTERM, with SIGKILL only if need be.

    Jupyter picks free ports before the kernel starts and the kernel binds them seconds later; another process may have
    taken one by then. Where there are no such sockets, or the folder's path is too long for them, ports it is.

    Signals go to all processes of the kernel. joblib's workers end by the first; its resource tracker does not, and
    removes the shared memory that they leave.
    """

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self._folder = tempfile.TemporaryDirectory(prefix="icdpo-kernel-")  # only its owner may enter
        path = str(Path(self._folder.name, "socket"))
        if os.name == "posix" and len(os.fsencode(path)) + len("-10") <= LONGEST:
            self.transport, self.ip = "ipc", path

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """End the kernel; see `jupyter_client.KernelManager.shutdown_kernel`."""
        if now and self.has_kernel:
            await self.provisioner.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.provisioner.wait(), GRACE)
        await super().shutdown_kernel(now, restart)

    async def cleanup_resources(self, restart: bool = False) -> None:
        """Leave nothing behind; see `jupyter_client.KernelManager.cleanup_resources`."""
        await super().cleanup_resources(restart)
        if not restart:
            self._folder.cleanup()
