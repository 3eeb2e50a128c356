"""What the host's memory allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.host.resource.memory import MemoryWatch, check_spares, read_memory_mib


def test_a_line_of_meminfo(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  2097152 kB\nMemAvailable:    307200 kB\n")
    file = str(tmp_path / "meminfo")
    assert read_memory_mib("MemTotal", file) == 2048
    assert read_memory_mib("MemAvailable", file) == 300
    with pytest.raises(KataError, match="it has no SwapFree"):
        read_memory_mib("SwapFree", file)


@pytest.mark.parametrize(("needed_mib", "has_room"), [(95, True), (96, False)])
def test_a_tenth_stays_free(tmp_path: Path, needed_mib: int, has_room: bool) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  2097152 kB\nMemAvailable:    307200 kB\n")
    assert MemoryWatch(str(tmp_path / "meminfo")).has_room(needed_mib) == has_room


def test_a_number_that_cannot_fit_is_told_with_the_arithmetic() -> None:
    total = read_memory_mib("MemTotal")
    check_spares(2, total // 2)
    with pytest.raises(KataError) as caught:
        check_spares(3, total // 2)
    each = total // 2
    assert f"3 machines of {each} MiB, overhead included, are {3 * each} MiB" in str(caught.value)
    assert "at most 2 fit" in str(caught.value)
    assert caught.value.code == Code.FAILED_PRECONDITION
    # Where even one does not fit, it is the machine's own size that is wrong.
    check_spares(3, total + 1)
