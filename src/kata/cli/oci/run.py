"""kata-runtime run: create and start a container, and delete it when it has ended."""

from __future__ import annotations

from kata.cli.oci.create import Creation, check_console, check_user
from kata.cli.oci.delete import delete
from kata.cli.oci.record import load_record
from kata.cli.oci.start import finish_start, start
from kata.cli.oci.streams import Console
from kata.cli.oci.wait import hold_signals, wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Run the container; returns its exit status, or 0 at once where it is detached."""
    check_user(options.words[0])
    detached = options.has("detach")
    creation = Creation(settings, options)
    process = creation.process
    console_socket = check_console(process, options.text("console-socket"), detached=detached)
    console = Console() if process.get("terminal") else None
    try:
        stand_in = creation.make(console)
        if console is not None:
            console.give_slave()
        record = load_record(settings.root, creation.id)
        hold_signals()
        start(settings, record)
    except BaseException:
        creation.undo()
        raise
    finish_start(settings, record)
    if detached:
        if console is not None and console_socket is not None:
            console.send_master(console_socket)
        return 0
    status = wait_for(stand_in, console)
    if not options.has("keep"):
        delete(settings, load_record(settings.root, creation.id), force=True)
    return status
