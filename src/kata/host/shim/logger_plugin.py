"""A logging program that takes a process's output (containerd's ``binary://`` scheme).

It gets CONTAINER_ID and CONTAINER_NAMESPACE in its environment, standard output and error to read
on descriptors 3 and 4, and closes descriptor 5 when it is ready.
"""

from __future__ import annotations

import os
import select
import signal

from kata.base.errors import Code, KataError
from kata.base.processes import Spawner

_READY_TIMEOUT_S = 10.0
# It ends by itself when its input ends; then it is asked to; then it is killed.
_END_S = 3.0
_TERM_S = 12.0


class LoggerPlugin:
    """A running logger.  ``stdout`` and ``stderr`` are owned by whoever uses this for a process."""

    def __init__(self, argv: list[str], owner: tuple[str, str], spawner: Spawner) -> None:
        """Start ``argv`` for ``owner`` (namespace, container id) and wait until it is ready."""
        namespace, container_id = owner
        out_read, self.stdout = os.pipe()
        err_read, self.stderr = os.pipe()
        ready_read, ready_write = os.pipe()
        environ = {
            **os.environ,
            "CONTAINER_ID": container_id,
            "CONTAINER_NAMESPACE": namespace,
        }
        try:
            self._child = spawner.spawn(argv, {3: out_read, 4: err_read, 5: ready_write}, environ)
            os.close(ready_write)
            ready_write = -1
            if not select.select([ready_read], [], [], _READY_TIMEOUT_S)[0]:
                self._child.kill()
                self._child.wait()
                raise KataError(f"start logger {argv[0]}: it does not get ready", Code.UNAVAILABLE)
        except BaseException:
            os.close(self.stdout)
            os.close(self.stderr)
            raise
        finally:
            for fd in {out_read, err_read, ready_read, ready_write} - {-1}:
                os.close(fd)
        os.set_blocking(self.stdout, False)
        os.set_blocking(self.stderr, False)

    def close(self) -> None:
        """Wait for the logger to end; its input has been closed."""
        if self._child.wait(_END_S) is None:
            self._child.kill(signal.SIGTERM)
            if self._child.wait(_TERM_S) is None:
                self._child.kill()
                self._child.wait()
