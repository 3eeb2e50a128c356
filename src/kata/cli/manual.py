"""kata-runtime manual and completion: a manual page and bash's help, from the table of verbs."""

from __future__ import annotations

from kata.base.errors import Code, KataError
from kata.base.statefolder import ROOT, SOCKET
from kata.base.version import VERSION
from kata.cli.table import SWITCH
from kata.cli.verbs import GLOBAL_FLAGS, VERBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kata.cli.settings import Settings
    from kata.cli.table import Flag, Options, Verb

# What some verbs name a sandbox by.
_SANDBOX = next(flag for verb in VERBS for flag in verb.flags if flag.name == "sandbox-id")
_BASH = """\
# bash completion of kata-runtime; zsh takes it after `bashcompinit`.
_kata_runtime() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} verb= index
    for ((index = 1; index < COMP_CWORD; index++)); do
        case ${{COMP_WORDS[index]}} in
            {valued}) ((index++)) ;;
            -*) ;;
            *) verb=${{COMP_WORDS[index]}}; break ;;
        esac
    done
    local words
    case $verb in
        "") words="{verbs} {flags}" ;;
{cases}
    esac
    if [[ $word != -* && " {with_ids} " == *" $verb "* ]]; then
        words+=" $(kata-runtime list -q 2>/dev/null)"
    fi
    if [[ " {with_sandboxes} " == *" $verb "* && $word != -* ]]; then
        local socket
        for socket in {root}/*/{socket}; do
            socket=${{socket%/*}}
            [[ $socket == *"*" ]] || words+=" ${{socket##*/}}"
        done
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _kata_runtime kata-runtime
"""


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Print one of them.  Raises INVALID_ARGUMENT for a shell that is not bash."""
    if verb.name == "manual":
        print("\n".join(render_manual()))
        return 0
    if options.words != ["bash"]:
        raise KataError(
            f"completion for {options.words[0]}: there is one for bash", Code.INVALID_ARGUMENT
        )
    print(render_completion(), end="")
    return 0


def render_completion() -> str:
    """Return a script for bash."""
    words = {verb.name: f"{_names(verb.flags)} {_alternatives(verb)}".strip() for verb in VERBS}
    cases = [f'        {name}) words="{text}" ;;' for name, text in words.items() if text]
    valued = [name for flag in GLOBAL_FLAGS if flag.kind != SWITCH for name in _dashed(flag)]
    return _BASH.format(
        verbs=" ".join(verb.name for verb in VERBS),
        flags=_names(GLOBAL_FLAGS),
        cases="\n".join(cases),
        valued="|".join(valued),
        with_ids=" ".join(verb.name for verb in VERBS if verb.words.startswith("<container-id>")),
        root=ROOT,
        socket=SOCKET,
        with_sandboxes=" ".join(verb.name for verb in VERBS if _takes_sandbox(verb)),
    )


def _alternatives(verb: Verb) -> str:
    """Return the words that stand literally in a verb's usage: ``get || set <file>``."""
    firsts = [part.split()[:1] for part in verb.words.split("|")]
    return " ".join(word for first in firsts for word in first if word[0] not in "<-[")


def _takes_sandbox(verb: Verb) -> bool:
    return "<id>" in verb.words or "<sandbox>" in verb.words or _SANDBOX in verb.flags


def render_manual() -> Iterator[str]:
    """Yield the lines of kata-runtime(8), in man(7)'s language."""
    yield f'.TH KATA-RUNTIME 8 "" "kata {VERSION}"'
    yield ".SH NAME\nkata-runtime \\- containers in virtual machines, by runc's command line"
    yield ".SH SYNOPSIS\n.B kata-runtime\n[global options] verb [options] [arguments]"
    yield ".SH DESCRIPTION\nEngines call it in place of runc; operators ask it about a node."
    yield ".SH GLOBAL OPTIONS"
    for flag in GLOBAL_FLAGS:
        yield from _describe(flag)
    yield ".SH VERBS"
    for verb in VERBS:
        yield f".SS {verb.name}"
        yield f".B kata-runtime {verb.name}"
        if verb.words:
            yield _escape(verb.words)
        yield f".PP\n{_escape(verb.help.capitalize())}."
        for flag in verb.flags:
            yield from _describe(flag)
    yield ".SH EXIT STATUS"
    yield "0, or 1 for an error; 3 for an unknown verb; 255 for an exec that did not run; that of"
    yield "the process for run and exec in the foreground."
    yield ".SH SEE ALSO\n.BR runc (8),\n.BR podman (1)"


def _describe(flag: Flag) -> Iterator[str]:
    value = "" if flag.kind == SWITCH else " value"
    yield f".TP\n.B {_escape(', '.join(name + value for name in _dashed(flag)))}"
    default = f" Default: {flag.default}." if flag.default else ""
    yield _escape(f"{flag.help[0].upper()}{flag.help[1:]}.{default}")


def _names(flags: Sequence[Flag]) -> str:
    return " ".join(name for flag in flags for name in _dashed(flag))


def _dashed(flag: Flag) -> list[str]:
    return [f"{'--' if len(name) > 1 else '-'}{name}" for name in flag.names]


def _escape(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
