"""Scrapes by several threads, which know and forget the same sandboxes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from kata.base.log import Logger
from kata.base.statefolder import SOCKET
from kata.monitor.discovery import Sandbox
from kata.monitor.scrape import Scraper
from tests.support.monitored import FakeShim


class Watched(Sandbox):
    """One that tells when it is looked up."""

    on_lookup: ClassVar[Callable[[], None]]

    def __hash__(self) -> int:
        Watched.on_lookup()
        return hash(self.id)


@pytest.mark.parametrize("lookup", range(1, 7))
def test_a_sandbox_that_another_forgets_during_a_scrape(tmp_path: Path, lookup: int) -> None:
    shim = FakeShim(tmp_path, "a")
    sandbox = Watched("a", str(shim.folder / SOCKET), (0, 0))
    scraper = Scraper(Logger(lambda _: None))
    Watched.on_lookup = lambda: None
    scraper.scrape([sandbox], [])
    lookups = 0

    def forget() -> None:
        nonlocal lookups
        lookups += 1
        if lookups == lookup:
            thread = threading.Thread(target=scraper.forget_others, args=([],))
            thread.start()
            thread.join(0.1)  # it may have to wait for the scrape

    Watched.on_lookup = forget
    assert len(scraper.scrape([sandbox], []).sources) == 1
    Watched.on_lookup = lambda: None
    shim.stop()
