"""kata-runtime direct-volume add|remove|stats|resize: volumes that are given to guests as disks."""

from __future__ import annotations

import json
import urllib.parse

from kata.base import directvolume
from kata.base.errors import Code, KataError
from kata.cli.management import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Do what the first word says with the volume that ``--volume-path`` names."""
    path = options.text("volume-path")
    if not path:
        raise KataError("direct-volume: --volume-path is missing", Code.INVALID_ARGUMENT)
    action = options.words[0]
    if action == "add":
        directvolume.add(path, _get(options, "mount-info"))
    elif action == "remove":
        directvolume.remove(path)
    elif action == "stats":
        query = urllib.parse.urlencode({"path": path})
        answer = ask(directvolume.get_user(path), "GET", f"/direct-volume/stats?{query}")
        print(answer.decode())
    elif action == "resize":
        body = json.dumps({"VolumePath": path, "Size": int(_get(options, "size"))})
        ask(directvolume.get_user(path), "POST", "/direct-volume/resize", body.encode())
    else:
        raise KataError(
            f"direct-volume: {action!r} is not add, remove, stats or resize", Code.INVALID_ARGUMENT
        )
    return 0


def _get(options: Options, name: str) -> str:
    text = options.text(name)
    if not text:
        raise KataError(f"direct-volume: --{name} is missing", Code.INVALID_ARGUMENT)
    return text
