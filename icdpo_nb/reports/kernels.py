"""The manager of a run's kernel: it ends the kernel at once, and lets those clean up that clean up after others."""

import asyncio
from contextlib import suppress

from jupyter_client import AsyncKernelManager

GRACE = 3.0  # seconds at most that a kernel has to end by SIGTERM


class KernelManager(AsyncKernelManager):
    """Ends a kernel with SIGTERM, and with SIGKILL only if that is not enough.

    Both go to all processes of the kernel. joblib's workers end by the first; its resource tracker does not, and removes
    the shared memory that they leave.
    """

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """End the kernel; see `jupyter_client.KernelManager.shutdown_kernel`."""
        if now and self.has_kernel:
            await self.provisioner.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.provisioner.wait(), GRACE)
        await super().shutdown_kernel(now, restart)
