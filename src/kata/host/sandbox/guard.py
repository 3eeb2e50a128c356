"""Watch a machine's processes, find out which died first and why, and end the other one.

A guest whose virtiofsd is gone hangs in its next access to a file; a virtiofsd whose machine is
gone ends by itself.  So the first death is the cause, and what is told of the second is noise.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from kata.base.processes import Child
from kata.host.sandbox.observer import Observer

# A connection ends before the process behind it can be reaped: what caused the first shows within
# this time.
_SETTLE_S = 1.0
# The kernel closes QEMU's sockets before it tells of its end; virtiofsd may be gone in between.
_OVERTAKEN_S = 0.5
# The last words of a process are in the pipe when it ends; reading them is a matter of scheduling.
_LAST_WORDS_S = 0.5


class Guard:
    """Watches from its start until one of the processes has ended.  Borrows everything."""

    def __init__(self, vm: Child, share: Child | None, observer: Observer) -> None:
        self._vm = vm
        self._share = share
        self._observer = observer
        self._lock = threading.Lock()
        self._expected = threading.Event()
        self._found = threading.Event()
        self._cause = ""
        self._on_lost: Callable[[str], None] | None = None
        self._end_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching processes that live; another guard may."""
        os.eventfd_write(self._end_fd, 1)
        self._thread.join()
        os.close(self._end_fd)

    def expect_end(self) -> None:
        """Take the machine's end from now on for what was wanted."""
        self._expected.set()

    def find_cause(self) -> str:
        """Return why the machine died; empty when it lives.  Waits a moment for the news."""
        return self._cause if self._found.wait(2 * _SETTLE_S) else ""

    def call_when_lost(self, on_lost: Callable[[str], None]) -> None:
        """Call ``on_lost`` with the cause once the machine dies unexpectedly, or now if it has."""
        with self._lock:
            if not self._found.is_set():
                self._on_lost = on_lost
                return
        if not self._expected.is_set():
            on_lost(self._cause)

    def _run(self) -> None:
        poller = select.poll()
        for child in (self._vm, self._share):
            if child is not None:
                poller.register(child, select.POLLIN)
        poller.register(self._end_fd, select.POLLIN)
        ended = poller.poll()
        if ended == [(self._end_fd, select.POLLIN)]:
            return
        expected = self._expected.is_set()
        cause = self._explain_share() or self._explain_vm()
        # Its connection ends with it, and with that every request that waits for the guest.
        self._vm.kill()
        with self._lock:
            self._cause = cause
            self._found.set()
            on_lost = self._on_lost
        if on_lost is not None and not expected:
            on_lost(cause)

    def _explain_share(self) -> str:
        """Return the cause if it is virtiofsd, which ends with status 0 when its machine does."""
        if self._share is None or (status := self._share.wait(0)) is None:
            return ""
        vm_status = self._vm.wait(0 if status < 0 else _OVERTAKEN_S)
        if vm_status is not None and (status == 0 or vm_status < 0):
            return ""
        return f"virtiofsd {_ended(status)}{self._quote('its last words', 'virtiofsd')}"

    def _explain_vm(self) -> str:
        status = self._vm.wait(_SETTLE_S)
        if status is None:
            return "QEMU has ended"
        if status != 0:
            return f"QEMU {_ended(status)}{self._quote('its last words', 'qemu')}"
        console = self._quote("console", "console")
        return f"the guest powered off or its kernel panicked{console}"

    def _quote(self, what: str, stream: str) -> str:
        self._observer.wait_end(stream, _LAST_WORDS_S)
        text = self._observer.tail(stream)
        return f"; {what}: {text}" if text else ""


def _ended(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
