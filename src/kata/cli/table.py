"""What a verb of the command line is made of, and how words are read by it.

The rules are those of runc, whose callers are programs: one dash or two, ``--flag value`` or
``--flag=value``, flags before the first word that is none.  Operators' verbs take them anywhere.
"""

from __future__ import annotations

from kata.base.errors import Code, KataError
from kata.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SWITCH, TEXT, NUMBER, LIST = "switch", "text", "number", "list"
_TRUE, _FALSE = ("true", "1", "t"), ("false", "0", "f")
MANY = 1 << 20


class UsageError(KataError):
    """The words do not fit the verb; whoever catches it shows the verb's usage."""


@dataclass(frozen=True)
class Flag:
    """A flag.  ``names`` are its long name and perhaps a letter."""

    names: tuple[str, ...]
    help: str
    kind: str = TEXT
    # What a text is without the flag.
    default: str = ""

    @property
    def name(self) -> str:
        """Return the name that its value is found by."""
        return self.names[0]


@dataclass(frozen=True)
class Verb:
    """A verb: ``module`` has its ``run(verb, settings, options) -> int``."""

    name: str
    module: str
    # The words that are no flags, as usage texts show them, and how many there may be.
    words: str
    least: int
    most: int
    help: str
    flags: tuple[Flag, ...] = ()
    # Whether flags may come after words.
    mixed: bool = False
    # Whether programs call it that read runc's texts and exit statuses.
    oci: bool = True


class Options:
    """The values of flags, by their long names, and the other words."""

    def __init__(self, flags: Sequence[Flag]) -> None:
        self.words: list[str] = []
        self._values: dict[str, list[str]] = {}
        self._defaults = {flag.name: flag.default for flag in flags}

    def add(self, name: str, value: str) -> None:
        """Note a flag's value."""
        self._values.setdefault(name, []).append(value)

    def text(self, name: str) -> str:
        """Return the last value of a flag, or its default."""
        return self._values.get(name, [self._defaults[name]])[-1]

    def texts(self, name: str) -> list[str]:
        """Return all values of a flag."""
        return self._values.get(name, [])

    def number(self, name: str) -> int | None:
        """Return the value of a flag that takes a number, None without it."""
        value = self.text(name)
        return int(value) if value else None

    def has(self, name: str) -> bool:
        """Return whether a switch is on, or a flag was given."""
        return self._values.get(name, [""])[-1] not in ("", *_FALSE)


def parse_words(words: Sequence[str], flags: Sequence[Flag], *, mixed: bool = False) -> Options:
    """Read words.  Raises UsageError in runc's words."""
    by_name = {name: flag for flag in flags for name in flag.names}
    options = Options(flags)
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            options.words += rest
            break
        if not word.startswith("-") or word == "-":
            options.words.append(word)
            if mixed:
                continue
            options.words += rest
            break
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        flag = by_name.get(name)
        if flag is None:
            raise UsageError(f"flag provided but not defined: -{name}", Code.INVALID_ARGUMENT)
        if flag.kind == SWITCH:
            value = value if equals else "true"
        elif not equals:
            if not rest:
                raise UsageError(f"flag needs an argument: -{name}", Code.INVALID_ARGUMENT)
            value = rest.pop(0)
        _check_value(flag, name, value)
        options.add(flag.name, value)
    return options


def check_count(program: str, verb: Verb, options: Options) -> None:
    """Raise UsageError, in runc's words, for too few or too many words."""
    count = len(options.words)
    if verb.least <= count <= verb.most:
        return
    if verb.least == verb.most:
        wanted = f"exactly {verb.least}"
    elif count < verb.least:
        wanted = f"a minimum of {verb.least}"
    else:
        wanted = f"a maximum of {verb.most}"
    raise UsageError(
        f'{program}: "{verb.name}" requires {wanted} argument(s)', Code.INVALID_ARGUMENT
    )


def _check_value(flag: Flag, name: str, value: str) -> None:
    if flag.kind == SWITCH and value not in (*_TRUE, *_FALSE):
        raise UsageError(f'invalid boolean value "{value}" for -{name}', Code.INVALID_ARGUMENT)
    if flag.kind == NUMBER and not value.removeprefix("-").isdecimal():
        raise UsageError(f'invalid value "{value}" for flag -{name}', Code.INVALID_ARGUMENT)
