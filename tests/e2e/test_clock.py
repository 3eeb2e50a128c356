"""The clocks of guests that start while the host is busy."""

from __future__ import annotations

import datetime
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.containerd import Containerd
from tests.support.ids import make_id

pytestmark = pytest.mark.e2e

STARTS = 20
LIMIT_S = 0.05
# A file of the host's, whose time is the host's, between two in the guest's memory; a shell makes
# each without a process.
# While the host is too busy to say what time it is, a guest's clock is looked at every two seconds.
SCRIPT = """
sleep 10
for n in 1 2 3 4 5; do : > /dev/shm/a$n; : > /volume/$n; : > /dev/shm/b$n; sleep 0.1; done
for n in 1 2 3 4 5; do stat -c %y /dev/shm/a$n /dev/shm/b$n > /volume/told$n; done
"""


def read_ahead_s(volume: Path) -> tuple[float, float]:
    """Return how far the guest's clock is ahead at least, and at most."""
    least, most = [], []
    for number in range(1, 6):
        host_s = (volume / str(number)).stat().st_mtime
        before_s, after_s = map(parse, (volume / f"told{number}").read_text().splitlines())
        least.append(before_s - host_s)
        most.append(after_s - host_s)
    return max(least), min(most)


def parse(text: str) -> float:
    """Return the time that ``stat`` shows."""
    day, clock, zone = text.split()
    return datetime.datetime.fromisoformat(f"{day}T{clock[:15]}{zone}").timestamp()


def test_twenty_that_start_at_once_have_the_hosts_time(
    containerd: Containerd, template: str, tmp_path: Path
) -> None:
    def run(number: int) -> tuple[float, float]:
        volume = tmp_path / str(number)
        volume.mkdir()
        mount = f"type=bind,src={volume},dst=/volume,options=rbind:rw"
        name = make_id(f"at once {number}")
        containerd.run(name, "sh", "-c", SCRIPT, flags=["--mount", mount], timeout=300)
        return read_ahead_s(volume)

    with ThreadPoolExecutor(STARTS) as pool:
        found = list(pool.map(run, range(STARTS)))
    for least, most in found:
        assert least < LIMIT_S, found
        assert most > -LIMIT_S, found
