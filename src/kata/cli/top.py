"""kata-runtime top: a live table of the sandboxes, for people."""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from kata.base.errors import Code, KataError
from kata.base.statefolder import ROOT, SOCKET
from kata.cli.management import ask
from kata.cli.usage import Look, compare, read_look, render_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb
    from kata.cli.usage import Usage

# A guest that does not answer delays the table no longer than that.
_TIMEOUT_S = 5.0
_ASKERS = 8
_SHORTEST_S = 0.2
_COLUMNS = (
    ("SANDBOX", "left"),
    ("POD", "left"),
    ("CPU", "right"),
    ("GUEST MEMORY", "right"),
    ("OVERHEAD", "right"),
    ("NET IN/s", "right"),
    ("NET OUT/s", "right"),
    ("READ/s", "right"),
    ("WRITTEN/s", "right"),
    ("TASKS", "right"),
)


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Show it until it is interrupted; once where nobody looks at a terminal, or with --once."""
    interval_s = _parse_interval(options.text("interval"))
    watcher = Watcher(ROOT)
    watcher.look()
    if options.has("once") or not sys.stdout.isatty():
        from rich.console import Console

        time.sleep(interval_s)
        watcher.look()
        # Columns are cut for no program that reads them.
        width = None if sys.stdout.isatty() else 200
        Console(width=width).print(render_table(watcher))
        return 0
    from rich.live import Live

    try:
        with Live(render_table(watcher), screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(interval_s)
                watcher.look()
                live.update(render_table(watcher), refresh=True)
    except KeyboardInterrupt:
        return 0


class Watcher:
    """Looks at all sandboxes again and again."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._before: dict[str, Look] = {}
        self.looks: dict[str, Look | None] = {}
        self.pods: dict[str, str] = {}

    def look(self) -> None:
        """Look once; a sandbox that does not answer is there without a look."""
        self._before = {name: look for name, look in self.looks.items() if look is not None}
        names = sorted(self._list_sandboxes())
        with ThreadPoolExecutor(_ASKERS) as askers:
            self.looks = dict(zip(names, askers.map(self._look_at, names), strict=True))
        self.pods = {name: pod for name, pod in self.pods.items() if name in self.looks}

    def usage(self, name: str) -> Usage | None:
        """Return what a sandbox has used since the last look; None when that is not known."""
        before, now = self._before.get(name), self.looks.get(name)
        return compare(before, now) if before is not None and now is not None else None

    def _list_sandboxes(self) -> list[str]:
        try:
            names = os.listdir(self._root)
        except FileNotFoundError:
            return []
        # Machines that wait for a sandbox, and what starts, have no socket.
        return [name for name in names if os.path.exists(f"{self._root}/{name}/{SOCKET}")]

    def _look_at(self, name: str) -> Look | None:
        try:
            if name not in self.pods:
                self.pods[name] = _name_pod(json.loads(self._ask(name, "/sandbox")))
            return read_look(
                self._ask(name, "/metrics").decode("utf-8", "replace"), time.monotonic()
            )
        except (KataError, ValueError):
            return None  # it ends or hangs; the table shows that it is there

    def _ask(self, name: str, path: str) -> bytes:
        return ask(name, "GET", path, root=self._root, timeout_s=_TIMEOUT_S)


def render_table(watcher: Watcher) -> Table:
    """Return the table, the busiest first."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title, side in _COLUMNS:
        table.add_column(title, justify="right" if side == "right" else "left", no_wrap=True)
    usages = {name: watcher.usage(name) for name in watcher.looks}
    for name in sorted(usages, key=lambda name: _order(name, usages)):
        table.add_row(*_render_row(name, watcher, usages[name]))
    return table


def _order(name: str, usages: Mapping[str, Usage | None]) -> tuple[float, str]:
    usage = usages[name]
    return (-usage.cpu_percent if usage is not None else 0.0, name)


def _render_row(name: str, watcher: Watcher, usage: Usage | None) -> list[str]:
    look, pod = watcher.looks[name], watcher.pods.get(name, "")
    shown = name[:20]
    if look is None:
        return [shown, pod, "does not answer", *[""] * (len(_COLUMNS) - 3)]
    rates = ["", "", "", ""]
    if usage is not None:
        counted = (usage.received, usage.sent, usage.read, usage.written)
        rates = [render_bytes(count) for count in counted]
    return [
        shown,
        pod,
        f"{usage.cpu_percent:.0f}%" if usage is not None else "",
        f"{render_bytes(look.guest_used)} / {render_bytes(look.guest_total)}",
        render_bytes(look.overhead),
        *rates,
        f"{look.tasks:.0f}",
    ]


def _name_pod(described: Mapping[str, str]) -> str:
    name, namespace = described.get("cri_name", ""), described.get("cri_namespace", "")
    # Rich takes brackets for commands.
    return f"{namespace}/{name}".replace("[", "(") if name else ""


def _parse_interval(text: str) -> float:
    try:
        interval_s = float(text)
    except ValueError:
        interval_s = 0.0
    if not _SHORTEST_S <= interval_s <= 3600:
        raise KataError(
            f"top: interval {text!r} is not {_SHORTEST_S:g} to 3600 seconds", Code.INVALID_ARGUMENT
        )
    return interval_s
