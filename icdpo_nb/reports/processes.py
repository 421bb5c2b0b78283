"""Commands side by side: several notebooks at a time, each in a process of its own."""

import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence

from .progress import Watcher


def side_by_side(
    commands: Sequence[Sequence[str]], jobs: int, after: Sequence[set[int]] = (), watcher: Watcher | None = None
) -> int:
    """Run commands, `jobs` at a time, each with its share of the processor's threads. Returns the largest exit code.

    A command begins when those whose numbers stand in its `after` have ended, well or not. If this process is interrupted, it
    ends them all as it was ended. A watcher starts them and shows how far they are.
    """
    begin = watcher.start if watcher else _start
    share = share_of(jobs)
    waiting, running, codes = list(range(len(commands))), {}, {}
    try:
        while waiting or running:
            ready = [i for i in waiting if not after or after[i] <= codes.keys()]
            for i in ready[: jobs - len(running)]:  # in a session of its own: Ctrl-C reaches this process, which passes it on
                running[i] = begin(i, commands[i], share | os.environ)
                waiting.remove(i)
            ended = {i: code for i, process in running.items() if (code := process.poll()) is not None}
            codes |= ended
            running = {i: process for i, process in running.items() if i not in ended}
            if watcher:
                watcher.look(running, ended)
            time.sleep(0.05)
    finally:
        end(running.values())
    return max(code if code >= 0 else 1 for code in codes.values())


def share_of(jobs: int) -> dict[str, str]:
    """What the environment says to each of `jobs` processes that compute side by side: its share of the processor's threads."""
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)), "TQDM_DISABLE": "1"}


def end(processes: Iterable[subprocess.Popen]) -> None:
    """End processes as this one was ended, and wait until they have unwound."""
    processes = list(processes)
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def _start(i: int, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen:
    return subprocess.Popen(command, env=environment, start_new_session=True)
