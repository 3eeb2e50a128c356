"""Leave secrets out of texts that go to other people.  Pure.

What is recognised: values of names that tell of a secret (``password = "x"``, ``"auth": "x"``,
``--token x``), what follows ``Authorization:`` and ``Cookie:``, users in addresses, private keys.
Too much is left out rather than too little; a secret that nothing tells of stays.

Part of the texts is a guest's, so every repetition that could be tried again from each place is
bounded, and names are looked for where they begin only.
"""

from __future__ import annotations

import re

GONE = "[left out]"
# A name's beginning and end around the word that tells.
_PART = r"[\w.-]{0,40}"
_TELLING = (
    rf"(?<![\w.-])-{{0,2}}{_PART}?(?:pass(?:w|phrase|code)|pwd|secret|token|credential|auth|private|"
    rf"identity|psk|(?:api|access|encryption|signing|ssh|tls)[_-]?key|init[_-]?data|"
    rf"(?<=[_-])(?:pass|key)(?![\w])){_PART}"
)
_QUOTED = (
    r'"""(?:[^"\\]|\\.|"(?!"")){0,4000}(?:"""|\Z)|'
    r"'''[^']{0,4000}(?:'''|\Z)|"
    r'\\"(?:[^"\\\n]|\\[^"\n]){0,4000}\\"|'
    r'"(?:[^"\\\n]|\\.){0,4000}"|'
    r"'[^'\n]{0,4000}'"
)
# Without quotes it may itself stand in quotes.
_VALUE = rf"{_QUOTED}|\[[^\]\n]{{0,4000}}\]|[^\s\"'\\}}]+"
_NAMED = re.compile(
    rf"(?i)({_TELLING}(?:\\?[\"'])?[ \t]{{0,20}}[=:][ \t]{{0,20}}|(?<!\S)--{_PART}?"
    rf"(?:passw|secret|token|credential|auth)[\w-]{{0,40}}[ \t]{{1,20}})({_VALUE})"
)
_HEADER = re.compile(r"(?i)((?:authorization|cookie)(?:\\?[\"'])?[ \t]{0,20}[=:])[^\n]*")
_USER = re.compile(r"(?i)(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{0,20}://)[^\s@\"']{1,400}@")
_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)", re.S
)


def redact(text: str) -> str:
    """Return a text without the secrets in it."""
    text = _KEY.sub(GONE, text)
    text = _HEADER.sub(rf"\1 {GONE}", text)
    text = _USER.sub(rf"\1{GONE}@", text)
    return _NAMED.sub(lambda found: found[1] + _hide(found[2]), text)


def _hide(value: str) -> str:
    """Keep the quotes: what was JSON or TOML still is."""
    for quote in ('\\"', '"', "'"):
        if value.startswith(quote):
            return f"{quote}{GONE}{quote}"
    return GONE
