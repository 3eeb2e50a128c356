"""Pods and containers as tests want them: made with few words, removed at the end."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.containerd import IMAGE
from tests.support.cri import runtime_pb2 as pb
from tests.support.cri.bed import HANDLER, Node
from tests.support.cri.client import Cri

_NUMBERS = itertools.count(1)
FOREVER = ("sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.2; done")


class Pod:
    """A running pod."""

    def __init__(self, node: Node, handler: str = HANDLER, **fields: Any) -> None:
        """Start the pod; ``fields`` are those of PodSandboxConfig."""
        self.node = node
        self.config = render_pod(node.folder / "logs", **fields)
        self.logs = Path(self.config.log_directory)
        self.logs.mkdir(parents=True)
        self.id = node.cri.run_pod(self.config, handler)

    @property
    def cri(self) -> Cri:
        """The client of the pod's runtime."""
        return self.node.cri

    def status(self) -> pb.PodSandboxStatus:
        """Return the pod's status."""
        return self.cri.pod_status(self.id)

    def wait_not_ready(self, timeout_s: float = 15.0) -> None:
        """Wait until the pod is no longer ready."""
        deadline = time.monotonic() + timeout_s
        while self.status().state == pb.SANDBOX_READY:
            assert time.monotonic() < deadline, f"{self.id} is still ready"
            time.sleep(0.05)

    @property
    def ip(self) -> str:
        """The pod's first address."""
        return self.status().network.ip

    @property
    def ip6(self) -> str:
        """The pod's second address."""
        return self.status().network.additional_ips[0].ip

    def namespace(self) -> str:
        """Return the path of the pod's network namespace; empty when it has none any more."""
        info = json.loads(self.cri.pod_info(self.id)["info"])
        namespaces = info["runtimeSpec"]["linux"]["namespaces"]
        return next(
            (entry.get("path", "") for entry in namespaces if entry["type"] == "network"), ""
        )

    def create(self, *command: str, **fields: Any) -> Container:
        """Create a container; ``fields`` are those of ContainerConfig, or of its security."""
        return Container(self, command, **fields)

    def run(self, *command: str, **fields: Any) -> Container:
        """Create and start a container that runs until it is stopped, or a command."""
        container = self.create(*(command or FOREVER), **fields)
        container.start()
        return container

    def output(self, *command: str, **fields: Any) -> str:
        """Return what a container of its own writes until it ends with success."""
        return self.run(*command, **fields).finish()

    def remove(self) -> None:
        """Stop and remove the pod with its containers, unless it is gone."""
        if self.id not in {pod.id for pod in self.cri.list_pods()}:
            return
        self.cri.stop_pod(self.id)
        self.cri.remove_pod(self.id)


class Container:
    """A container of a pod."""

    def __init__(self, pod: Pod, command: Sequence[str], **fields: Any) -> None:
        self.pod = pod
        self.name = f"c{next(_NUMBERS)}"
        self.log_file = pod.logs / f"{self.name}.log"
        config = render_container(self.name, command, **fields)
        self.id = pod.cri.create(pod.id, config, pod.config)

    def start(self) -> None:
        """Start the container."""
        self.pod.cri.start(self.id)

    def stop(self, timeout_s: int = 0) -> None:
        """Stop the container."""
        self.pod.cri.stop(self.id, timeout_s)

    def remove(self) -> None:
        """Remove the container."""
        self.pod.cri.remove(self.id)

    def status(self) -> pb.ContainerStatus:
        """Return the container's status."""
        return self.pod.cri.container_status(self.id)

    @property
    def state(self) -> str:
        """The container's state: CREATED, RUNNING, EXITED."""
        return pb.ContainerState.Name(self.status().state).removeprefix("CONTAINER_")

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for the container's end and for its whole log; returns its exit code."""
        deadline = time.monotonic() + timeout_s
        while (status := self.status()).state != pb.CONTAINER_EXITED:
            assert time.monotonic() < deadline, f"still {status}; {self.log()}"
            time.sleep(0.05)
        # containerd may say that it ended before the last lines are in the file.
        while self.pod.node.containerd.has_open(self.log_file):
            assert time.monotonic() < deadline, f"log is still written: {self.log()[-1000:]}"
            time.sleep(0.01)
        return status.exit_code

    def finish(self) -> str:
        """Wait for the end with success and remove the container; returns what it wrote."""
        code = self.wait()
        text = self.log()
        self.remove()
        assert code == 0, (code, text)
        return text

    def exec(self, *command: str) -> str:
        """Run a command in the container; returns what it printed."""
        done = self.pod.cri.exec_sync(self.id, command, 30)
        assert done.exit_code == 0, (command, done)
        return done.stdout.decode()

    def sh(self, script: str) -> str:
        """Run a line of shell in the container; returns what it printed."""
        return self.exec("sh", "-c", script).strip()

    def lines(self) -> list[tuple[str, str, str]]:
        """Return the log as (stream, tag, text); the tag is F for a whole line, P for a part."""
        text = self.log_file.read_text() if self.log_file.exists() else ""
        fields = [line.split(" ", 3) for line in text.splitlines()]
        return [(stream, tag, rest) for _, stream, tag, rest in fields]

    def log(self) -> str:
        """Return what the container has written, both streams."""
        return "".join(text + ("\n" if tag == "F" else "") for _, tag, text in self.lines())

    def wait_log(self, wanted: str, timeout_s: float = 20.0) -> str:
        """Wait until the container has written some text; returns the log."""
        deadline = time.monotonic() + timeout_s
        while wanted not in (text := self.log()):
            assert time.monotonic() < deadline, f"no {wanted!r} in {text!r}"
            time.sleep(0.05)
        return text


def render_pod(logs: Path, /, **fields: Any) -> pb.PodSandboxConfig:
    """Return a pod's configuration with a name and a folder for logs of its own."""
    name = f"pod{next(_NUMBERS)}"
    metadata = pb.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="tests")
    values = {"metadata": metadata, "hostname": name, "log_directory": str(logs / name)}
    return pb.PodSandboxConfig(**{**values, **fields})


def render_container(name: str, command: Sequence[str], **fields: Any) -> pb.ContainerConfig:
    """Return a container's configuration; fields of its security context may stand among them."""
    known = pb.ContainerConfig.DESCRIPTOR.fields_by_name
    security = {key: fields.pop(key) for key in list(fields) if key not in known}
    resources = security.pop("resources", None)
    image = pb.ImageSpec(image=fields.pop("image", IMAGE))
    context = pb.LinuxContainerSecurityContext(**security)
    # What kubelet sets for a pod that says nothing else.
    if not context.HasField("namespace_options"):
        context.namespace_options.pid = pb.CONTAINER
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=name),
        image=image,
        command=command,
        log_path=f"{name}.log",
        linux=pb.LinuxContainerConfig(security_context=context, resources=resources),
        **fields,
    )
