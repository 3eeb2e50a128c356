"""A node for pods: containerd with its CRI plug-in, a pod network, images, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.cni import PLUGINS, Network, make_network
from tests.support.containerd import IMAGE, Containerd
from tests.support.cri.client import Cri, CriError
from tools.busybox_image import busybox_layer, render_image
from tools.setup import CONFIGURATION

HANDLER = "kata"
PAUSE = "localhost/pause:latest"
NAMESPACE = "k8s.io"
# As an operator writes it, but for the folders.  Lowering oom_score_adj needs a capability that
# not every machine that runs tests gives to root.
SETTINGS = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{folder}/c.sock"
[ttrpc]
  address = "{folder}/c.sock.ttrpc"
[debug]
  level = "debug"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "PAUSE"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "PLUGINS"
    conf_dir = "{folder}/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata]
      runtime_type = "io.containerd.kata.v2"
      privileged_without_host_devices = true
      pod_annotations = ["io.katacontainers.*"]
      container_annotations = ["io.katacontainers.*"]
    [plugins."io.containerd.grpc.v1.cri".containerd.untrusted_workload_runtime]
      runtime_type = "io.containerd.kata.v2"
      privileged_without_host_devices = true
      pod_annotations = ["io.katacontainers.*"]
      container_annotations = ["io.katacontainers.*"]
""".replace("PAUSE", PAUSE).replace("PLUGINS", PLUGINS)
# The same for containerd 2.x, whose sections have other names; untrusted workloads are gone.
SETTINGS_2 = """\
version = 3
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{folder}/c.sock"
[ttrpc]
  address = "{folder}/c.sock.ttrpc"
[debug]
  level = "debug"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "PAUSE"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["PLUGINS"]
    conf_dir = "{folder}/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.kata]
      runtime_type = "io.containerd.kata.v2"
      privileged_without_host_devices = true
      pod_annotations = ["io.katacontainers.*"]
      container_annotations = ["io.katacontainers.*"]
""".replace("PAUSE", PAUSE).replace("PLUGINS", PLUGINS)


class Node:
    """A running containerd with its clients."""

    def __init__(
        self,
        folder: Path,
        network: Network,
        settings: str = SETTINGS,
        programs: Path | None = None,
        configuration: str = CONFIGURATION,
    ) -> None:
        """``settings`` are containerd's, of the system or in ``programs``; the other is kata's."""
        self.folder = folder
        self.network = network
        self.containerd = Containerd(folder, programs, configuration, settings)
        self.containerd.start()
        self.cri = Cri(self.containerd.address)

    def import_image(self, name: str, layer: bytes, settings: dict[str, object]) -> None:
        """Give containerd an image and wait until its CRI plug-in has it."""
        archive = self.folder / "image.tar"
        archive.write_bytes(render_image(layer, name, settings))
        self.containerd.ctr("-n", NAMESPACE, "image", "import", str(archive))
        archive.unlink()
        deadline = time.monotonic() + 20
        while not self.cri.has_image(name):
            assert time.monotonic() < deadline, f"the CRI plug-in does not see {name}"
            time.sleep(0.05)

    def stop(self) -> None:
        """Remove all pods and stop the daemon."""
        try:
            for pod in self.cri.list_pods():
                self.cri.stop_pod(pod.id)
                self.cri.remove_pod(pod.id)
        finally:
            self.cri.close()
            self.containerd.stop()


@contextmanager
def make_node(
    folder: Path,
    settings: str = SETTINGS,
    programs: Path | None = None,
    configuration: str = CONFIGURATION,
) -> Iterator[Node]:
    """Start a node with the images of busybox and of the pause container (see Node)."""
    with make_network(folder / "cni") as network:
        node = Node(folder, network, settings, programs, configuration)
        try:
            layer = busybox_layer()
            environment = ["PATH=/bin:/usr/bin"]
            node.import_image(IMAGE, layer, {"Env": environment, "Cmd": ["sh"]})
            pause = ["/bin/sleep", "2000000000"]
            node.import_image(PAUSE, layer, {"Env": environment, "Entrypoint": pause})
            wait_ready(node.cri)
            yield node
        finally:
            node.stop()


def wait_ready(cri: Cri, timeout_s: float = 20.0) -> None:
    """Wait until runtime and network are ready for pods."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            conditions = cri.conditions()
        except CriError as error:
            conditions = {error.message: False}
        if conditions.get("RuntimeReady") and conditions.get("NetworkReady"):
            return
        assert time.monotonic() < deadline, conditions
        time.sleep(0.1)
