"""The manager of a run's kernel: which transport it takes, and that it leaves nothing behind."""

import asyncio
import os
import tempfile

import pytest
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME

from icdpo_nb.reports.kernels import KernelManager

CODE = "from ipykernel.kernelapp import IPKernelApp; print(IPKernelApp.instance().transport)"


async def say(manager):
    """What the code prints in a kernel of this manager."""
    said = []
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=120)
        await client.execute_interactive(CODE, timeout=60, output_hook=lambda message: said.append(message["content"]))
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
        await manager.cleanup_resources()
    return "".join(content["text"] for content in said if "text" in content).strip()


@pytest.mark.skipif(os.name != "posix", reason="sockets with a path")
@pytest.mark.parametrize(("folder", "transport"), [("k", "ipc"), ("k" * 90, "tcp")])
def test_kernels_need_no_ports_where_a_path_fits(folder, transport, monkeypatch):
    with tempfile.TemporaryDirectory() as home:
        place = f"{home}/{folder}"
        os.mkdir(place)
        monkeypatch.setattr(tempfile, "tempdir", place)
        manager = KernelManager(kernel_name=NATIVE_KERNEL_NAME, transport_encryption="required")
        (own,) = os.listdir(place)
        assert os.stat(f"{place}/{own}").st_mode & 0o777 == 0o700
        assert manager.transport == transport
        assert asyncio.run(say(manager)) == transport
        assert manager.curve_publickey is not None
        assert not os.listdir(place), "nothing is left"
