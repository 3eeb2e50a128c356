"""Where the factory listens, and the words of the messages that it takes.  Imports nothing."""

from __future__ import annotations

SOCKET = "/run/kata/factory.sock"
RUN = b"run"
DONE = b"done"
WANT = b"want"
END = b"end"
STATUS = b"status"

# The ids of machines that become templates begin with it.
ORIGINAL = "template-"
