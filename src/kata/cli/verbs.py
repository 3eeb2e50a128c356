"""The table of all verbs: what the command line, the usage texts and the manual are made from."""

from __future__ import annotations

from kata.cli.table import LIST, MANY, NUMBER, SWITCH, Flag, Verb

GLOBAL_FLAGS = (
    Flag(("root",), "folder for the state of containers", default="/run/kata-runtime"),
    Flag(("log",), "file for errors and warnings (default: standard error)"),
    Flag(("log-format",), "'text' or 'json'", default="text"),
    Flag(("debug",), "log what only a developer wants", SWITCH),
    Flag(("systemd-cgroup",), "cgroups are named as systemd does: slice:prefix:name", SWITCH),
    Flag(("config", "kata-config"), "configuration.toml, if another"),
    Flag(("rootless",), "accepted for compatibility; it makes no difference"),
    Flag(("criu",), "accepted for compatibility; containers of a machine have no checkpoints"),
    Flag(("version", "v"), "print the version", SWITCH),
    Flag(("help", "h"), "show this", SWITCH),
)

_BUNDLE = Flag(("bundle", "b"), "the bundle's folder (default: the working directory)")
_CONSOLE = Flag(("console-socket",), "Unix socket that gets the terminal's master end")
_PID_FILE = Flag(("pid-file",), "file to write the process id to")
_PRESERVE = Flag(
    ("preserve-fds",), "descriptors to pass on; none can pass into a machine", NUMBER, "0"
)
_DETACH = Flag(("detach", "d"), "do not wait for the process to end", SWITCH)
_CREATE = (
    _BUNDLE,
    _CONSOLE,
    _PID_FILE,
    Flag(("no-pivot",), "accepted for compatibility; it makes no difference", SWITCH),
    Flag(("no-new-keyring",), "accepted for compatibility; it makes no difference", SWITCH),
    _PRESERVE,
)
_FORMAT = Flag(("format", "f"), "'table' or 'json'", default="table")
_JSON = Flag(("json",), "for programs", SWITCH)
_ID = "<container-id>"

VERBS = (
    Verb("create", "kata.cli.oci.create", _ID, 1, 1, "create a container", _CREATE),
    Verb("start", "kata.cli.oci.start", _ID, 1, 1, "start a created container's process"),
    Verb("state", "kata.cli.oci.state", _ID, 1, 1, "show the state of a container"),
    Verb(
        "kill",
        "kata.cli.oci.kill",
        f"{_ID} [signal]",
        1,
        2,
        "send a signal (default: SIGTERM) to a container's process",
        (Flag(("all", "a"), "send it to all of the container's processes", SWITCH),),
    ),
    Verb(
        "delete",
        "kata.cli.oci.delete",
        _ID,
        1,
        1,
        "delete a container that has stopped",
        (Flag(("force", "f"), "kill it first, if it still runs", SWITCH),),
    ),
    Verb(
        "run",
        "kata.cli.oci.run",
        _ID,
        1,
        1,
        "create and start a container, and delete it when it has ended",
        (
            *_CREATE,
            _DETACH,
            Flag(("keep",), "do not delete the container after it has ended", SWITCH),
            Flag(("no-subreaper",), "accepted for compatibility", SWITCH),
        ),
    ),
    Verb(
        "exec",
        "kata.cli.oci.execute",
        f"{_ID} <command> [arguments] || -p process.json {_ID}",
        1,
        MANY,
        "run another process in a container",
        (
            _CONSOLE,
            Flag(("cwd",), "working directory in the container"),
            Flag(("env", "e"), "set a variable of the environment: NAME=VALUE", LIST),
            Flag(("tty", "t"), "with a terminal", SWITCH),
            Flag(("user", "u"), "UID[:GID]"),
            Flag(("additional-gids", "g"), "one more group id", LIST),
            Flag(("process", "p"), "file with the process as JSON"),
            _DETACH,
            _PID_FILE,
            Flag(("process-label",), "SELinux label; guests have none"),
            Flag(("apparmor",), "AppArmor profile; guests have none"),
            Flag(("no-new-privs",), "set no-new-privileges", SWITCH),
            Flag(("cap", "c"), "add a capability", LIST),
            _PRESERVE,
            Flag(("cgroup",), "a cgroup below the container's", LIST),
            Flag(("ignore-paused",), "also in a paused container, once it goes on", SWITCH),
        ),
    ),
    Verb(
        "list",
        "kata.cli.oci.list",
        "",
        0,
        0,
        "list containers",
        (_FORMAT, Flag(("quiet", "q"), "show ids alone", SWITCH)),
    ),
    Verb(
        "ps",
        "kata.cli.oci.ps",
        f"{_ID} [ps options]",
        1,
        MANY,
        "list the processes of a container, by the ps of its image",
        (_FORMAT,),
    ),
    Verb(
        "events",
        "kata.cli.oci.events",
        _ID,
        1,
        1,
        "show a container's use of resources, again and again, as JSON",
        (
            Flag(("interval",), "time between two, as 500ms, 5s or 1m", default="5s"),
            Flag(("stats",), "show it once", SWITCH),
        ),
    ),
    Verb(
        "update",
        "kata.cli.oci.update",
        _ID,
        1,
        1,
        "change the limits of a container",
        (
            Flag(("resources", "r"), "file with the limits as JSON, or - for standard input"),
            Flag(("blkio-weight",), "weight of block input and output, 10 to 1000", NUMBER),
            Flag(("cpu-period",), "period of the processor's limit, in microseconds", NUMBER),
            Flag(("cpu-quota",), "processor time in a period, in microseconds", NUMBER),
            Flag(("cpu-share",), "share of the processor, beside other containers", NUMBER),
            Flag(("cpu-rt-period",), "period of real-time processes, in microseconds", NUMBER),
            Flag(("cpu-rt-runtime",), "real-time processor time in a period", NUMBER),
            Flag(("cpuset-cpus",), "processors to use"),
            Flag(("cpuset-mems",), "memory nodes to use"),
            Flag(("memory",), "memory limit, in bytes; -1 for none", NUMBER),
            Flag(("memory-reservation",), "soft memory limit, in bytes", NUMBER),
            Flag(("memory-swap",), "limit of memory and swap together, in bytes", NUMBER),
            Flag(("pids-limit",), "number of processes", NUMBER),
            Flag(("l3-cache-schema",), "accepted for compatibility; guests have no such control"),
            Flag(("mem-bw-schema",), "accepted for compatibility; guests have no such control"),
        ),
    ),
    Verb("pause", "kata.cli.oci.pause", _ID, 1, 1, "suspend all processes of a container"),
    Verb("resume", "kata.cli.oci.pause", _ID, 1, 1, "let a paused container go on"),
    Verb(
        "spec",
        "kata.cli.oci.spec",
        "",
        0,
        0,
        "write a config.json to begin with",
        (_BUNDLE, Flag(("rootless",), "accepted for compatibility", SWITCH)),
    ),
    Verb("features", "kata.cli.oci.features", "", 0, 0, "show what this runtime can do, as JSON"),
    Verb(
        "factory",
        "kata.cli.factory",
        "init|status|destroy",
        1,
        1,
        "templates and machines that wait: make them, show them, end them",
        (
            Flag(("config",), "configuration.toml, if another"),
            Flag(("json",), "status for programs", SWITCH),
        ),
        mixed=True,
        oci=False,
    ),
    Verb(
        "trace",
        "kata.cli.trace",
        "<id>",
        1,
        1,
        "draw the steps of a sandbox's start, and their times",
        mixed=True,
        oci=False,
    ),
    Verb(
        "check",
        "kata.cli.check",
        "",
        0,
        0,
        "say what this host offers and lacks, and what mends it",
        (_JSON,),
        oci=False,
    ),
    Verb(
        "env",
        "kata.cli.env",
        "",
        0,
        0,
        "show versions, host and the configuration that counts, with each value's origin",
        (_JSON,),
        oci=False,
    ),
    Verb("version", "kata.cli.version", "", 0, 0, "print the version", oci=False),
)
