"""Get a sandbox its machine: a copy of a template where there is one, else one that boots."""

from __future__ import annotations

from collections.abc import Callable

from kata.base.errors import Code, KataError, describe_error
from kata.config.records import Config
from kata.host.hypervisor.spec import VmSpec
from kata.host.sandbox.machine import Machine, MachineContext
from kata.host.sandbox.plan import describe_machine
from kata.host.share.layout import SharedFolderPaths
from kata.host.template.key import template_key
from kata.host.template.store import Store, Template
from kata.host.template.wish import ensure_factory, wish_template

# Failures that a machine which boots would meet as well; the template is not to blame.
_NOT_ITS_FAULT = frozenset({Code.RESOURCE_EXHAUSTED, Code.FAILED_PRECONDITION, Code.ABORTED})


def launch_machine(
    context: MachineContext,
    spec: VmSpec,
    shared: SharedFolderPaths,
    take: Callable[[Machine], None],
) -> None:
    """Start a machine for ``spec``.

    ``take`` gets each machine that is tried before it starts; it must close it in the end, and may
    raise ABORTED.
    """
    machine = Machine(context)
    take(machine)
    found = _find_template(context, spec)
    if found is not None:
        key, template = found
        try:
            machine.restore(spec, shared, template)
        except KataError as error:
            if error.code in _NOT_ITS_FAULT:
                raise
            machine.close()
            machine = Machine(context)
            take(machine)
            context.log.warning("template not used", reason=describe_error(error))
            _store(context).discard(key)
        else:
            return
        finally:
            template.close()
    machine.boot(spec, shared)


def _find_template(context: MachineContext, spec: VmSpec) -> tuple[str, Template] | None:
    """Return the template for a machine with its key.  One that was spoilt is gone then."""
    if not _can_be_copied(context.config, spec):
        return None
    try:
        key = template_key(*describe_machine(spec))
        template = _store(context).open(key)
    except (KataError, OSError) as error:
        context.log.warning("template not used", reason=describe_error(error))
        return None
    return (key, template) if template is not None else None


def wish_for(config: Config, spec: VmSpec, *, is_copy: bool) -> None:
    """Ask for the template of a machine, where there can be one.  Raises KataError.

    For a machine that ``is_copy`` the factory alone is wanted, which starts shims as well.
    """
    if not _can_be_copied(config, spec):
        return
    if is_copy:
        ensure_factory()
    else:
        wish_template(config.path, describe_machine(spec)[0])


def _can_be_copied(config: Config, spec: VmSpec) -> bool:
    return config.factory.enable_template and spec.vsock_cid is None


def _store(context: MachineContext) -> Store:
    return Store(context.config.factory.template_path)
