"""What every container has in /dev (OCI specification, config-linux.md, "Default Devices")."""

# Name, major, minor; the numbers are the same everywhere.
NODES = (
    ("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9),
    ("tty", 5, 0),
)  # fmt: skip
# Name, and where it leads.
LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)
