"""One scrape: ask the shims of sandboxes, check what they say, label it with their pods."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass

from kata.base.errors import Code, KataError, describe_error
from kata.monitor.exposition import relabel, render_labels
from kata.monitor.fetch import Answer, Request, fetch, fetch_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kata.base.log import Logger
    from kata.monitor.discovery import Sandbox
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


class Scraper:
    """Asks shims.  Any thread may call it."""

    def __init__(self, log: Logger, timeout_s: float = TIMEOUT_S) -> None:
        self._log = log
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        # What a sandbox's pod is called does not change; its shim is asked once.
        self._labels: dict[Sandbox, str] = {}
        # What was logged of a sandbox's last scrape.
        self._complaints: dict[Sandbox, str] = {}

    def scrape(self, sandboxes: Sequence[Sandbox], prefixes: Sequence[str]) -> Scrape:
        """Ask sandboxes at once, for the families whose names begin so."""
        known = {s: self._labels[s] for s in sandboxes if s in self._labels}
        unknown = [sandbox for sandbox in sandboxes if sandbox not in known]
        requests = [Request(sandbox.socket_path, "/sandbox") for sandbox in unknown]
        requests += [Request(sandbox.socket_path, "/metrics") for sandbox in sandboxes]
        results = fetch_all(requests, self._timeout_s)
        pods = dict(zip(unknown, results, strict=False))
        sources, failed = [], 0
        for sandbox, result in zip(sandboxes, results[len(unknown) :], strict=True):
            try:
                labels = known.get(sandbox) or self._learn(sandbox, pods[sandbox])
                relabelled = relabel(_get_body(result), labels, prefixes)
            except KataError as error:
                if os.path.lexists(sandbox.socket_path):  # else it has just ended
                    failed += 1
                    self._complain(sandbox, "sandbox not scraped", describe_error(error))
                continue
            sources.append(relabelled.families)
            lines = relabelled.rejected
            message = "metrics left out" if lines else ""
            self._complain(sandbox, message, f"{lines} lines are not what shims write")
        return Scrape(sources, failed)

    def forget_others(self, sandboxes: Sequence[Sandbox]) -> None:
        """Forget all sandboxes but these."""
        kept = frozenset(sandboxes)
        with self._lock:
            for known in (self._labels, self._complaints):
                for sandbox in known.keys() - kept:
                    del known[sandbox]

    def get_agent_url(self, sandbox: Sandbox) -> str:
        """Return where a sandbox's agent listens.  Raises KataError with the shim's reason."""
        answer = fetch(Request(sandbox.socket_path, "/agent-url"), self._timeout_s)
        return _get_body(answer).decode("utf-8", "replace").strip()

    def _learn(self, sandbox: Sandbox, result: Answer | KataError) -> str:
        labels = render_labels((sandbox.id, *_parse_pod(_get_body(result))))
        with self._lock:
            self._labels[sandbox] = labels
        return labels

    def _complain(self, sandbox: Sandbox, message: str, reason: str) -> None:
        """Log a message once; an empty one says that all is well again."""
        with self._lock:
            is_new = self._complaints.get(sandbox, "") != message
            self._complaints[sandbox] = message
        if is_new and message:
            self._log.warning(message, sandbox=sandbox.id, reason=reason)


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
