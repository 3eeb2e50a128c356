"""Small records without the standard library's dataclasses, whose import costs a guest 0.1 s.

Where types are checked the names stand for the real thing: import ``dataclass`` from here in code
that the guest loads, and use nothing of it but fields with plain defaults.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(**_options):
        """Give a class an initializer, equality and a representation of its annotated fields."""
        return _complete


def _complete(kind: type) -> type:
    names = tuple(kind.__annotations__)
    defaults = {name: kind.__dict__[name] for name in names if name in kind.__dict__}

    def initialize(self: object, *values: object, **named: object) -> None:
        given = {**defaults, **dict(zip(names, values, strict=False)), **named}
        if len(values) > len(names) or given.keys() != set(names):
            raise TypeError(f"{kind.__name__} takes {', '.join(names)}")
        self.__dict__.update(given)

    def equals(self: object, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def digest(self: object) -> int:
        return hash(tuple(vars(self).values()))

    def describe(self: object) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{kind.__name__}({fields})"

    kind.__init__ = initialize  # type: ignore[misc]
    kind.__eq__ = equals  # type: ignore[assignment]
    kind.__hash__ = digest  # type: ignore[assignment]
    kind.__repr__ = describe  # type: ignore[assignment]
    return kind
