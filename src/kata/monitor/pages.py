"""What each address of the monitor answers: a table of pages, and nothing of HTTP's bytes."""

from __future__ import annotations

import html
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlsplit

from kata.base.errors import Code, KataError, describe_error
from kata.base.ids import check_id
from kata.monitor.families import CONTENT_TYPE, matches, merge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from kata.monitor.discovery import Discovery, Sandbox
    from kata.monitor.own import OwnMetrics
    from kata.monitor.scrape import Scraper

TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
# These ask shims, which takes descriptors and processor time, and hold what those said until it has
# been sent, 40 MB for 100 sandboxes; more at once are refused.
_ASKING = ("/metrics", "/agent-url")
_MAX_ASKING = 4
_STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.NOT_FOUND: 404,
    Code.UNIMPLEMENTED: 501,
    Code.RESOURCE_EXHAUSTED: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
_BAD_GATEWAY = 502
_ENDPOINTS = (
    ("/metrics", "metrics of all sandboxes; filter_family=A,B and sandbox=ID choose some"),
    ("/sandboxes", "sandboxes that run"),
    ("/agent-url", "where a sandbox's agent listens; sandbox=ID is needed"),
)


@dataclass(frozen=True, slots=True)
class Page:
    """An answer; its text comes in pieces."""

    status: int
    content_type: str
    pieces: Iterable[str]


@dataclass(frozen=True, slots=True)
class _Query:
    values: Mapping[str, list[str]]
    wants_html: bool

    def get(self, name: str) -> str:
        """Return a parameter; empty without it."""
        return self.values.get(name, [""])[0]


class Pages:
    """Answers requests.  Any thread may call it."""

    def __init__(self, discovery: Discovery, scraper: Scraper, own: OwnMetrics) -> None:
        self._discovery = discovery
        self._scraper = scraper
        self._own = own
        self._slots = threading.BoundedSemaphore(_MAX_ASKING)
        self._table: dict[str, Callable[[_Query], Page]] = {
            "/": self._show_index,
            "/metrics": self._show_metrics,
            "/sandboxes": self._show_sandboxes,
            "/agent-url": self._show_agent_url,
        }

    @contextmanager
    def answer(self, target: str, accept: str) -> Iterator[Page]:
        """Have the page for a request's target, until it has been sent.

        ``accept`` is the request's header of that name.
        """
        with ExitStack() as held:
            yield self._make(target, accept, held)

    def _make(self, target: str, accept: str, held: ExitStack) -> Page:
        try:
            parts = urlsplit(target)
            show = self._table.get(parts.path)
            if show is None:
                raise KataError(f"there is no {parts.path!r}, see /", Code.NOT_FOUND)
            if parts.path in _ASKING:
                self._take_slot()
                held.callback(self._slots.release)
            return show(_Query(parse_qs(parts.query), "text/html" in accept))
        except KataError as error:
            status = _STATUS.get(error.code, _BAD_GATEWAY)
            return Page(status, TEXT, [f"{describe_error(error)}\n"])
        except ValueError as error:  # of urllib
            return Page(400, TEXT, [f"bad address: {error}\n"])

    def _show_index(self, query: _Query) -> Page:
        if query.wants_html:
            rows = (f'<li><a href="{path}">{path}</a>: {text}</li>\n' for path, text in _ENDPOINTS)
            return Page(200, HTML, ["<h1>kata-monitor</h1>\n<ul>\n", *rows, "</ul>\n"])
        return Page(200, TEXT, (f"{path}: {text}\n" for path, text in _ENDPOINTS))

    def _take_slot(self) -> None:
        if not self._slots.acquire(blocking=False):
            text = f"ask sandboxes: {_MAX_ASKING} requests are under way"
            raise KataError(text, Code.RESOURCE_EXHAUSTED)

    def _show_metrics(self, query: _Query) -> Page:
        prefixes = [name for name in query.get("filter_family").split(",") if name]
        self._scraper.forget_others(self._list_sandboxes())
        if query.get("sandbox"):
            return self._scrape_one(self._get_sandbox(query), prefixes)
        return self._scrape_all(prefixes)

    def _scrape_one(self, sandbox: Sandbox, prefixes: list[str]) -> Page:
        scrape = self._scraper.scrape([sandbox], prefixes)
        if not scrape.sources:
            raise KataError(f"scrape sandbox {sandbox.id}: it gave no metrics, see the log")
        return Page(200, CONTENT_TYPE, merge(scrape.sources))

    def _scrape_all(self, prefixes: list[str]) -> Page:
        began = time.monotonic()
        self._own.count_scrape()
        sandboxes = self._list_sandboxes()
        scrape = self._scraper.scrape(sandboxes, prefixes)
        self._own.note_scrape((time.monotonic() - began) * 1000, scrape.failed)
        own = self._own.list_families(len(sandboxes))
        wanted = [family for family in own if matches(family.name, prefixes)]
        return Page(200, CONTENT_TYPE, merge([wanted, *scrape.sources]))

    def _show_sandboxes(self, query: _Query) -> Page:
        ids = [sandbox.id for sandbox in self._list_sandboxes()]
        if query.wants_html:
            return Page(200, HTML, ["<h1>sandboxes</h1>\n<ul>\n", *map(_list_item, ids), "</ul>\n"])
        return Page(200, TEXT, (f"{sandbox_id}\n" for sandbox_id in ids))

    def _show_agent_url(self, query: _Query) -> Page:
        return Page(200, TEXT, [f"{self._scraper.get_agent_url(self._get_sandbox(query))}\n"])

    def _list_sandboxes(self) -> list[Sandbox]:
        return list(self._discovery.sandboxes.values())

    def _get_sandbox(self, query: _Query) -> Sandbox:
        """Return the sandbox that is meant.  Raises INVALID_ARGUMENT or NOT_FOUND."""
        sandbox_id = check_id("sandbox", query.get("sandbox"))
        sandbox = self._discovery.sandboxes.get(sandbox_id)
        if sandbox is None:
            raise KataError(f"find sandbox {sandbox_id}: it does not run", Code.NOT_FOUND)
        return sandbox


def _list_item(sandbox_id: str) -> str:
    """Return a sandbox with its links."""
    links = (
        f'<a href="{path}?sandbox={quote(sandbox_id)}">{name}</a>'
        for path, name in (("/metrics", "metrics"), ("/agent-url", "agent-url"))
    )
    return f"<li>{html.escape(sandbox_id)}: {', '.join(links)}</li>\n"
