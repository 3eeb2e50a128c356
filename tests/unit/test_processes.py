"""Children: their ends, waited for by several threads."""

from __future__ import annotations

import os
import signal
import threading
import time

from kata.base.processes import Child, Spawner


def read_pid(pidfd: int) -> int:
    """Return whose end a pidfd tells; -1 once it was reaped (proc(5), fdinfo)."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))


def test_every_wait_for_one_child_ends_with_it() -> None:
    """Others may open files as soon as it is reaped: its number is not for them."""
    spawner = Spawner()
    for _ in range(20):
        child = spawner.spawn(["/bin/sleep", "100"], {})
        statuses: list[int | None] = []

        def wait(child: Child = child, statuses: list[int | None] = statuses) -> None:
            statuses.append(child.wait(20))
            os.close(os.open(os.devnull, os.O_RDONLY))

        threads = [threading.Thread(target=wait) for _ in range(5)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        child.kill()
        for thread in threads:
            thread.join()
        assert statuses == [-signal.SIGKILL] * 5
        assert time.monotonic() - began < 10
        assert read_pid(child.fileno()) == -1
        child.kill()  # which is nobody's any more


def test_a_child_holds_a_descriptor_as_long_as_it_is_known() -> None:
    spawner = Spawner()
    child = spawner.spawn(["/bin/true"], {})
    assert child.wait(20) == 0
    pidfd = f"/proc/self/fd/{child.fileno()}"
    assert os.readlink(pidfd) == "anon_inode:[pidfd]"
    del child
    assert not os.path.lexists(pidfd) or os.readlink(pidfd) != "anon_inode:[pidfd]"
