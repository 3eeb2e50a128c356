"""Get a sandbox its machine: a copy of a template where there is one, else one that boots."""

from __future__ import annotations

from collections.abc import Callable

from kata.base.errors import Code, KataError, describe_error
from kata.config.records import Config
from kata.host.hypervisor.spec import VmSpec
from kata.host.sandbox.machine import Machine, MachineContext
from kata.host.sandbox.plan import describe_kind, describe_machine
from kata.host.share.layout import SharedFolderPaths
from kata.host.template.key import template_key
from kata.host.template.store import Store, Template
from kata.host.template.wish import ensure_factory, tell_kind

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


def tell_factory(config: Config, spec: VmSpec, hint: str, *, is_copy: bool, missed: bool) -> None:
    """Ask for what the next sandbox with this hint can start from.  Raises KataError.

    ``missed`` is whether it had a machine that was of no use.  Where nothing is wanted the factory
    must only be there, because it starts shims as well.
    """
    can_be_copied = _can_be_copied(config, spec)
    spares = config.factory.vm_cache_number if can_be_copied else 0
    if spares or missed or (can_be_copied and not is_copy):
        wants_template = can_be_copied and not is_copy
        tell_kind(describe_kind(config, spec), hint, spares, wants_template=wants_template)
    elif can_be_copied:
        ensure_factory()


def _can_be_copied(config: Config, spec: VmSpec) -> bool:
    return config.factory.enable_template and spec.vsock_cid is None


def _store(context: MachineContext) -> Store:
    return Store(context.config.factory.template_path)
