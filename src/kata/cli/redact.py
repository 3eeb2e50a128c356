"""Leave secrets out of texts that go to other people.  Pure.

What is recognised: values of names that tell of a secret (``password = "x"``, ``"auth": "x"``,
``token=x``, ``Authorization: Bearer x``), users in addresses, private keys.  Too much is left out
rather than too little.
"""

from __future__ import annotations

import re

GONE = "[left out]"
_TELLING = (
    r"[\w.-]*(?:passw|secret|token|credential|auth|private|identity|"
    r"api[_-]?key|access[_-]?key|encryption[_-]?key|init[_-]?data|cookie)[\w.-]*"
)
_VALUE = (
    r'"(?:[^"\\\n]|\\.)*"|'
    r"'[^'\n]*'|"
    r"(?:Bearer|Basic)[ \t]+\S+|"
    r"\[[^\]\n]*\]|"
    r"[^\s,;}]+"
)
_NAMED = re.compile(rf"(?i)(\\?[\"']?{_TELLING}\\?[\"']?[ \t]*[=:][ \t]*)({_VALUE})")
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/@\"']+@")
_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S
)


def redact(text: str) -> str:
    """Return a text without the secrets in it."""
    text = _KEY.sub(GONE, text)
    text = _USER.sub(rf"\1{GONE}@", text)
    return _NAMED.sub(lambda found: found[1] + _hide(found[2]), text)


def _hide(value: str) -> str:
    quote = value[0] if value[0] in "\"'" else ""  # what was JSON or TOML still is
    return f"{quote}{GONE}{quote}"
