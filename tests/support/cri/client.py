"""A client of Kubernetes' runtime interface: what crictl does, for tests, over a real CRI socket.

Requests go by gRPC; exec, attach and port-forward answer with the address of a stream, which
``tests.support.cri.streams`` opens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from tests.support.cri import runtime_pb2 as pb
from tests.support.cri.streams import Forward, Session

Answer = TypeVar("Answer", bound=Message)

RUNTIME = "runtime.v1.RuntimeService"
IMAGES = "runtime.v1.ImageService"
# Several machines that boot at once on two emulated processors need more than a minute.
TIMEOUT_S = 120.0


class CriError(Exception):
    """The runtime refused a request; ``code`` is gRPC's name of the kind."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Cri:
    """A connection to one runtime."""

    def __init__(self, address: str) -> None:
        """``address`` is the path of the runtime's socket."""
        self._channel = grpc.insecure_channel(f"unix://{address}")

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    # The runtime and its images

    def version(self) -> pb.VersionResponse:
        """Return name and version of the runtime."""
        return self._call("Version", pb.VersionRequest(), pb.VersionResponse)

    def conditions(self) -> dict[str, bool]:
        """Return which of the runtime's conditions (RuntimeReady, NetworkReady) are met."""
        answer = self._call("Status", pb.StatusRequest(), pb.StatusResponse)
        return {condition.type: condition.status for condition in answer.status.conditions}

    def handler_features(self) -> dict[str, pb.RuntimeHandlerFeatures]:
        """Return what runtimes can do, by their names (containerd 2.0 and later)."""
        answer = self._call("Status", pb.StatusRequest(), pb.StatusResponse)
        return {handler.name: handler.features for handler in answer.runtime_handlers}

    def has_image(self, name: str) -> bool:
        """Tell whether the runtime knows an image."""
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=name))
        return self._call("ImageStatus", request, pb.ImageStatusResponse, IMAGES).HasField("image")

    # Pods

    def run_pod(self, config: pb.PodSandboxConfig, handler: str) -> str:
        """Create and start a pod's sandbox; returns its id."""
        request = pb.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return self._call("RunPodSandbox", request, pb.RunPodSandboxResponse).pod_sandbox_id

    def stop_pod(self, pod: str) -> None:
        """Stop a pod and its containers."""
        request = pb.StopPodSandboxRequest(pod_sandbox_id=pod)
        self._call("StopPodSandbox", request, pb.StopPodSandboxResponse)

    def remove_pod(self, pod: str) -> None:
        """Remove a pod with its containers, running or not."""
        request = pb.RemovePodSandboxRequest(pod_sandbox_id=pod)
        self._call("RemovePodSandbox", request, pb.RemovePodSandboxResponse)

    def pod_status(self, pod: str) -> pb.PodSandboxStatus:
        """Return a pod's status."""
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod)
        return self._call("PodSandboxStatus", request, pb.PodSandboxStatusResponse).status

    def pod_info(self, pod: str) -> Mapping[str, str]:
        """Return what the runtime tells besides the status, as JSON by name."""
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod, verbose=True)
        return self._call("PodSandboxStatus", request, pb.PodSandboxStatusResponse).info

    def list_pods(self, labels: Mapping[str, str] | None = None) -> list[pb.PodSandbox]:
        """Return all pods, or those with some labels."""
        request = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector=labels))
        return list(self._call("ListPodSandbox", request, pb.ListPodSandboxResponse).items)

    def pod_stats(self, pod: str) -> pb.PodSandboxStats:
        """Return statistics of a pod."""
        request = pb.PodSandboxStatsRequest(pod_sandbox_id=pod)
        return self._call("PodSandboxStats", request, pb.PodSandboxStatsResponse).stats

    # Containers

    def create(self, pod: str, config: pb.ContainerConfig, pod_config: pb.PodSandboxConfig) -> str:
        """Create a container in a pod; returns its id."""
        request = pb.CreateContainerRequest(
            pod_sandbox_id=pod, config=config, sandbox_config=pod_config
        )
        return self._call("CreateContainer", request, pb.CreateContainerResponse).container_id

    def start(self, container: str) -> None:
        """Start a created container."""
        request = pb.StartContainerRequest(container_id=container)
        self._call("StartContainer", request, pb.StartContainerResponse)

    def stop(self, container: str, timeout_s: int = 0) -> None:
        """Stop a container: SIGTERM, and after a time SIGKILL."""
        request = pb.StopContainerRequest(container_id=container, timeout=timeout_s)
        self._call("StopContainer", request, pb.StopContainerResponse)

    def remove(self, container: str) -> None:
        """Remove a container, running or not."""
        request = pb.RemoveContainerRequest(container_id=container)
        self._call("RemoveContainer", request, pb.RemoveContainerResponse)

    def container_status(self, container: str) -> pb.ContainerStatus:
        """Return a container's status."""
        request = pb.ContainerStatusRequest(container_id=container)
        return self._call("ContainerStatus", request, pb.ContainerStatusResponse).status

    def list_containers(self, pod: str = "") -> list[pb.Container]:
        """Return all containers, or those of a pod."""
        request = pb.ListContainersRequest(filter=pb.ContainerFilter(pod_sandbox_id=pod))
        return list(self._call("ListContainers", request, pb.ListContainersResponse).containers)

    def container_stats(self, container: str) -> pb.ContainerStats:
        """Return statistics of a container."""
        request = pb.ContainerStatsRequest(container_id=container)
        return self._call("ContainerStats", request, pb.ContainerStatsResponse).stats

    def list_container_stats(self, pod: str) -> list[pb.ContainerStats]:
        """Return statistics of a pod's running containers."""
        request = pb.ListContainerStatsRequest(filter=pb.ContainerStatsFilter(pod_sandbox_id=pod))
        return list(self._call("ListContainerStats", request, pb.ListContainerStatsResponse).stats)

    def update(self, container: str, resources: pb.LinuxContainerResources) -> None:
        """Change a container's limits."""
        request = pb.UpdateContainerResourcesRequest(container_id=container, linux=resources)
        self._call("UpdateContainerResources", request, pb.UpdateContainerResourcesResponse)

    def reopen_log(self, container: str) -> None:
        """Open a container's log file anew, as after its rotation."""
        request = pb.ReopenContainerLogRequest(container_id=container)
        self._call("ReopenContainerLog", request, pb.ReopenContainerLogResponse)

    # Streams

    def exec_sync(
        self, container: str, command: Sequence[str], timeout_s: int = 0
    ) -> pb.ExecSyncResponse:
        """Run one more process in a container and wait for it."""
        request = pb.ExecSyncRequest(container_id=container, cmd=command, timeout=timeout_s)
        return self._call("ExecSync", request, pb.ExecSyncResponse)

    def exec(
        self, container: str, command: Sequence[str], *, tty: bool = False, stdin: bool = True
    ) -> Session:
        """Run one more process with streams; the caller closes the session."""
        request = pb.ExecRequest(
            container_id=container, cmd=command, tty=tty, stdin=stdin, stdout=True, stderr=not tty
        )
        return Session(self._call("Exec", request, pb.ExecResponse).url)

    def attach(self, container: str, *, tty: bool = False, stdin: bool = False) -> Session:
        """Attach to a container's first process; the caller closes the session."""
        request = pb.AttachRequest(
            container_id=container, tty=tty, stdin=stdin, stdout=True, stderr=not tty
        )
        return Session(self._call("Attach", request, pb.AttachResponse).url)

    def port_forward(self, pod: str, port: int) -> Forward:
        """Connect to a port inside a pod; the caller closes the connection."""
        request = pb.PortForwardRequest(pod_sandbox_id=pod, port=[port])
        return Forward(self._call("PortForward", request, pb.PortForwardResponse).url, port)

    def _call(
        self, method: str, request: Message, answer: type[Answer], service: str = RUNTIME
    ) -> Answer:
        call: grpc.UnaryUnaryMultiCallable[Message, Answer] = self._channel.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            return call(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
        raise CriError(code.name, details or "")
