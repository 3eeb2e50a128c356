"""kata-runtime list: all containers below the root."""

from __future__ import annotations

from kata.base.errors import Code, KataError
from kata.base.jsontext import render_json
from kata.cli.oci.record import list_records
from kata.cli.oci.state import describe_more, describe_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb

_TITLES = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
_MIN_WIDTH, _SPACE = 12, 3


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Print them as a table, as JSON, or their ids alone."""
    form = options.text("format")
    if form not in ("table", "json"):
        raise KataError("invalid format option", Code.INVALID_ARGUMENT)
    if options.has("quiet"):
        for record in list_records(settings.root):
            print(record.id)
        return 0
    states = list_states(settings.root)
    if form == "json":
        print(render_json(states or None))
        return 0
    rows = [
        [str(state[key]) for key in ("id", "pid", "status", "bundle", "created", "owner")]
        for state in states
    ]
    print("\n".join(render_table([list(_TITLES), *rows])))
    return 0


def list_states(root: str) -> list[dict[str, Any]]:
    """Return the state of each container below a root."""
    return [
        {**describe_state(record, record.status), **describe_more(record)}
        for record in list_records(root)
    ]


def render_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows in columns as runc's tables have them."""
    widths = [
        max(_MIN_WIDTH, max(len(row[at]) for row in rows) + _SPACE) for at in range(len(rows[0]))
    ]
    return [
        "".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)) + row[-1]
        for row in rows
    ]
