"""One scrape: ask the shims of sandboxes, check what they say, label it with their pods."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field

from kata.base.errors import Code, KataError, describe_error
from kata.monitor.discovery import is_there
from kata.monitor.exposition import relabel, render_labels
from kata.monitor.fetch import Answer, Request, fetch, fetch_all
from kata.monitor.guest import MAX_SERIES, Shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kata.base.log import Logger
    from kata.monitor.discovery import Sandbox
    from kata.monitor.exposition import Relabelled
    from kata.monitor.families import Family

# Prometheus gives a whole scrape 10 s by default.  A shim answers within 20 ms, and within seconds
# where processors are emulated and all are asked at once.
TIMEOUT_S = 5.0
_OK, _NOT_IMPLEMENTED = 200, 501
_POD_KEYS = ("cri_uid", "cri_name", "cri_namespace")


@dataclass(frozen=True, slots=True)
class Scrape:
    """The families of the sandboxes that answered, and how many that run did not."""

    sources: list[list[Family]]
    failed: int


@dataclass(slots=True)
class _Memory:
    """What is kept of a sandbox from one scrape to the next."""

    # What its pod is called does not change; its shim is asked once.  Empty until it has said so.
    labels: str = ""
    shown: Shown = field(default_factory=Shown)
    # What was logged of its last scrape.
    complaint: str = ""


class Scraper:
    """Asks shims.  Any thread may call it."""

    def __init__(self, log: Logger, timeout_s: float = TIMEOUT_S) -> None:
        self._log = log
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._memories: dict[Sandbox, _Memory] = {}

    def scrape(self, sandboxes: Sequence[Sandbox], prefixes: Sequence[str]) -> Scrape:
        """Ask sandboxes at once, for the families whose names begin so."""
        memories = self._recall(sandboxes)
        unknown = [sandbox for sandbox in sandboxes if not memories[sandbox].labels]
        requests = [Request(sandbox.socket_path, "/sandbox") for sandbox in unknown]
        requests += [Request(sandbox.socket_path, "/metrics") for sandbox in sandboxes]
        results = fetch_all(requests, self._timeout_s)
        pods = dict(zip(unknown, results, strict=False))
        del results[: len(unknown)]
        sources: list[list[Family]] = []
        failures: dict[Sandbox, KataError] = {}
        # Answers can be large: each is let go of once it has been read.
        results.reverse()
        for sandbox in sandboxes:
            result, memory = results.pop(), memories[sandbox]
            try:
                memory.labels = memory.labels or _read_labels(sandbox, pods[sandbox])
                found = relabel(_get_body(result), memory.labels, prefixes, memory.shown)
            except KataError as error:
                failures[sandbox] = error
                continue
            sources.append(found.families)
            self._complain(sandbox, memory, *_describe_losses(found))
        # Not before: one that was ending then has gone by now, and has not failed.
        failed = [sandbox for sandbox in failures if is_there(sandbox)]
        for sandbox in failed:
            reason = describe_error(failures[sandbox])
            self._complain(sandbox, memories[sandbox], "sandbox not scraped", reason)
        return Scrape(sources, len(failed))

    def forget_others(self, sandboxes: Sequence[Sandbox]) -> None:
        """Forget all sandboxes but these."""
        kept = frozenset(sandboxes)
        with self._lock:
            for sandbox in self._memories.keys() - kept:
                del self._memories[sandbox]

    def get_agent_url(self, sandbox: Sandbox) -> str:
        """Return where a sandbox's agent listens.  Raises KataError with the shim's reason."""
        answer = fetch(Request(sandbox.socket_path, "/agent-url"), self._timeout_s)
        return _get_body(answer).decode("utf-8", "replace").strip()

    def _recall(self, sandboxes: Sequence[Sandbox]) -> dict[Sandbox, _Memory]:
        """Return what is kept of these, which others may forget meanwhile."""
        with self._lock:
            return {s: self._memories.setdefault(s, _Memory()) for s in sandboxes}

    def _complain(self, sandbox: Sandbox, memory: _Memory, message: str, reason: str) -> None:
        """Log a message once; an empty one says that all is well again."""
        with self._lock:
            is_new = memory.complaint != message
            memory.complaint = message
        if is_new and message:
            self._log.warning(message, sandbox=sandbox.id, reason=reason)


def _read_labels(sandbox: Sandbox, result: Answer | KataError) -> str:
    return render_labels((sandbox.id, *_parse_pod(_get_body(result))))


def _describe_losses(found: Relabelled) -> tuple[str, str]:
    """Return what to log of a sandbox's text, and why; empty if all of it was taken."""
    reasons = []
    if found.rejected:
        reasons.append(f"{found.rejected} lines are not what shims write")
    if found.excess:
        reasons.append(f"{found.excess} lines are beyond the {MAX_SERIES} series of a guest")
    return "metrics left out" if reasons else "", ", ".join(reasons)


def _get_body(result: Answer | KataError) -> bytes:
    """Return what was asked for.  Raises KataError, also with what the shim said instead."""
    if isinstance(result, KataError):
        raise result
    if result.status != _OK:
        text = result.body[:200].decode("utf-8", "replace").strip()
        code = Code.UNIMPLEMENTED if result.status == _NOT_IMPLEMENTED else Code.NOT_FOUND
        raise KataError(f"the shim answers {result.status}: {text}", code)
    return result.body


def _parse_pod(body: bytes) -> Iterator[str]:
    """Return the values of _POD_KEYS.  Raises KataError if it is not what shims answer."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise KataError(f"parse sandbox's pod: {error}") from error
    if not isinstance(values, dict):
        raise KataError(f"parse sandbox's pod: it is no object but {body[:40]!r}")
    return (str(values.get(key, "")) for key in _POD_KEYS)
