"""The sandbox: its containers, storages and namespaces.  The agent has one."""

from __future__ import annotations

import os
import threading

from kata.base import syscalls
from kata.base.errors import Code, KataError, describe_error
from kata.guest import files, signals, sysctl
from kata.guest.container import Container
from kata.guest.namespaces import SandboxNamespaces, place, set_hostname
from kata.guest.oom import OomWatcher
from kata.guest.pause import SharedPids
from kata.guest.storage import Storages
from kata.guest.users import MappedUsers, are_mapped
from kata.rpc.server import after_answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kata.base.log import Logger
    from kata.guest.guest import Guest
    from kata.guest.runtime import Runtime
    from kata.oci.render import Json
    from kata.rpc.pb.agent_pb2 import CreateSandboxRequest, Storage

RUN = "/run/kata-containers"
# Not RUN/<id>: a container may be called "shared" or "sandbox", which are folders there.
BUNDLES = f"{RUN}/bundles"


class Sandbox:
    """Create and find containers, and end them all."""

    def __init__(self, guest: Guest, make_runtime: Callable[[], Runtime], log: Logger) -> None:
        """``make_runtime`` is called at the first container."""
        self._guest = guest
        self._make_runtime = make_runtime
        self._log = log
        self._lock = threading.Lock()
        self._containers: dict[str, Container] = {}
        self._mount_points: dict[str, list[str]] = {}
        self._runtime: Runtime | None = None
        self._namespaces = SandboxNamespaces(f"{RUN}/sandbox/ns")
        self._pids = SharedPids()
        self._users = MappedUsers(f"{RUN}/sandbox/sys")
        self._hostname = ""
        self._created = False
        self.storages = Storages(guest.modules.load, log)
        self.oom = OomWatcher(log)

    def warm(self, storages: Iterable[Storage]) -> None:
        """Do beforehand what ``create`` will find done."""
        self._namespaces.create("")
        self.storages.add_all(storages)

    def create(self, request: CreateSandboxRequest) -> None:
        """Set the guest up for a sandbox; once in its life."""
        with self._lock:
            if self._created:
                raise KataError("create sandbox: there is one already", Code.ALREADY_EXISTS)
            self._created = True
        try:
            self._set_up(request)
        except BaseException:
            self._namespaces.close()
            self._created = False
            raise
        self._log.info("sandbox created", sandbox=request.sandbox_id)

    def destroy(self) -> None:
        """Kill all containers and let everything go.  Failures are logged, not raised."""
        with self._lock:
            containers = list(self._containers)
        for container_id in containers:
            try:
                if self._guest.is_ours:  # which ends with them
                    self.get_container(container_id).end()
                else:
                    self.remove_container(container_id, 0)
            except (KataError, OSError) as error:
                self._log.warning(
                    "container not removed", container=container_id, error=describe_error(error)
                )
        self.storages.close()
        if self._guest.is_ours:
            os.sync()  # what was written by memory maps too; the host does not wait for more
        self._pids.close()
        self._users.close()
        try:
            self._namespaces.close()
        except OSError as error:
            self._log.warning("namespaces not removed", error=describe_error(error))
        self.oom.close()

    def shut_down(self) -> None:
        """End the agent, and with it the guest, once the answer to this call has been sent."""
        after_answer(lambda: os.kill(os.getpid(), signals.SIGTERM))

    def create_container(
        self,
        container_id: str,
        init_name: str,
        storages: Iterable[Storage],
        spec: dict[str, Json],
        *,
        shares_pids: bool,
    ) -> None:
        """Mount a container's storages and create it; undone when it fails.

        ``shares_pids`` is whether it joins the pid namespace of the pod.
        """
        container = self._register(container_id)
        mount_points: list[str] = []
        try:
            mount_points = self.storages.add_all(storages)
            place(spec, self._find_shared(container_id, spec, shares_pids), self._find_pid)
            if self._guest.is_ours:
                sysctl.apply_network(spec)
            container.create(init_name, spec, lambda: self.oom.check(container_id))
        except BaseException:
            self.storages.release_all(mount_points)
            with self._lock:
                del self._containers[container_id]
            raise
        self._mount_points[container_id] = mount_points
        self.oom.watch(container_id, container.cgroup)
        self._log.info("container created", container=container_id, pid=container.pid)

    def get_container(self, container_id: str) -> Container:
        """Return a container.  Raises NOT_FOUND."""
        with self._lock:
            container = self._containers.get(container_id)
        if container is None:
            raise KataError(f"find container: no container {container_id}", Code.NOT_FOUND)
        return container

    def remove_container(self, container_id: str, timeout_s: float) -> None:
        """Kill and remove a container, and unmount what only it used."""
        container = self.get_container(container_id)
        container.remove(timeout_s)
        self.oom.forget(container_id)
        with self._lock:
            self._containers.pop(container_id, None)
            mount_points = self._mount_points.pop(container_id, [])
        self.storages.release_all(mount_points)
        self._log.info("container removed", container=container_id)

    def _find_shared(
        self, container_id: str, spec: dict[str, Json], shares_pids: bool
    ) -> dict[str, str]:
        """Return the paths of the namespaces by kind that a container joins."""
        if are_mapped(spec):
            shared = self._users.join(container_id, spec, self._hostname)
            if not shares_pids:
                del shared["pid"]
            return shared
        pids = {"pid": self._pids.path()} if shares_pids else {}
        return {**self._namespaces.paths, **pids}

    def _find_pid(self, container_id: str) -> int:
        return self.get_container(container_id).pid

    def _register(self, container_id: str) -> Container:
        with self._lock:
            if container_id in self._containers:
                raise KataError(
                    f"create container: container {container_id} exists already",
                    Code.ALREADY_EXISTS,
                )
            if self._runtime is None:
                os.makedirs(BUNDLES, 0o711, exist_ok=True)
                self._runtime = self._make_runtime()
            container = Container(
                container_id, f"{BUNDLES}/{container_id}", self._runtime, self._log
            )
            self._containers[container_id] = container
            return container

    def _set_up(self, request: CreateSandboxRequest) -> None:
        for module in request.kernel_modules:
            self._guest.modules.probe(module.name, " ".join(module.parameters))
        if request.guest_hook_path:
            self._log.warning("guest hooks are not supported", path=request.guest_hook_path)
        self._namespaces.create(request.hostname)
        self._hostname = request.hostname
        if self._guest.is_ours and request.hostname:
            set_hostname(request.hostname)
        if request.dns:
            self._write_resolv_conf(list(request.dns))
        self.storages.add_all(request.storages)

    def _write_resolv_conf(self, lines: list[str]) -> None:
        """Write the resolver's configuration; the host sends whole lines, as upstream's does."""
        path = f"{RUN}/sandbox/resolv.conf"
        files.write(path, "".join(f"{line}\n" for line in lines), 0o644)
        if self._guest.is_ours:
            if not os.path.exists("/etc/resolv.conf"):  # which the guest image has
                files.write("/etc/resolv.conf", "", 0o644)
            syscalls.mount(path, "/etc/resolv.conf", "", syscalls.MS_BIND)
