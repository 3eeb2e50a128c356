"""What kata-monitor talks to: sandboxes' folders with shims' sockets, which speak real bytes."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from kata.base.statefolder import SOCKET

POD = {"cri_uid": "uid-1", "cri_name": "pod-1", "cri_namespace": "default"}
METRICS = b"""\
# HELP kata_shim_threads threads of the shim
# TYPE kata_shim_threads gauge
kata_shim_threads 7
# HELP kata_guest_load /proc/loadavg
# TYPE kata_guest_load gauge
kata_guest_load{item="load1"} 0.25
kata_guest_load{item="load5"} 1e-05
# HELP kata_shim_rpc_durations_histogram_milliseconds time of calls
# TYPE kata_shim_rpc_durations_histogram_milliseconds histogram
kata_shim_rpc_durations_histogram_milliseconds_bucket{action="create",le="1"} 0
kata_shim_rpc_durations_histogram_milliseconds_bucket{action="create",le="+Inf"} 2
kata_shim_rpc_durations_histogram_milliseconds_sum{action="create"} 50.5
kata_shim_rpc_durations_histogram_milliseconds_count{action="create"} 2
"""


def make_answer(body: bytes, status: str = "200 OK") -> bytes:
    """Return an HTTP answer as shims give it."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


class FakeShim:
    """A sandbox's folder with a socket; what it answers can be changed at any time."""

    def __init__(self, root: Path, sandbox_id: str, metrics: bytes = METRICS) -> None:
        self.folder = root / sandbox_id
        self.folder.mkdir(parents=True, exist_ok=True)
        self.asked: list[str] = []
        self.answers: dict[str, bytes] = {
            "/metrics": make_answer(metrics),
            "/sandbox": make_answer(json.dumps({"id": sandbox_id, **POD}).encode()),
            "/agent-url": make_answer(b"vsock://3:1024\n"),
        }
        # Sends an answer; others hang, dribble or die.
        self.send: Callable[[socket.socket, bytes], object] = socket.socket.sendall
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.folder / SOCKET))
        self._listener.listen(64)
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def hang(self) -> None:
        """Take requests from now on and never answer."""
        self.send = lambda sock, answer: self._open.append(sock.dup())

    def stop(self) -> None:
        """End as a killed shim does: the folder stays.  May be called twice."""
        if self._listener.fileno() >= 0:
            # A thread in accept(2) would keep a closed socket alive.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for sock in self._open:
            sock.close()

    def remove(self) -> None:
        """End, and take the folder away."""
        self.stop()
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(sock,), daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        with sock:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += sock.recv(4096)
            target = request.split()[1].decode()
            self.asked.append(target)
            try:
                self.send(sock, self.answers[target])
            except OSError:
                pass  # the asker has given up
