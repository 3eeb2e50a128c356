"""The checkout's configuration with some keys changed."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tools.setup import CONFIGURATION


def write_configuration(file: Path, /, **keys: object) -> str:
    """Write a configuration whose keys have other values than the checkout's; returns its path."""
    text = Path(CONFIGURATION).read_text()
    for key, value in keys.items():
        text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {json.dumps(value)}", text)
        assert count == 1, key
    file.write_text(text)
    return str(file)
