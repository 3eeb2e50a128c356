"""Programs that cannot be executed, as kubectl shows them: the same with runc."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cri.bed import Node
from tests.support.cri.client import CriError
from tests.support.cri.pods import Pod
from tests.support.programs import find_reason

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def runc_pod(node: Node) -> Iterator[Pod]:
    """A pod of runc."""
    pod = Pod(node, handler="runc")
    yield pod
    pod.remove()


@pytest.mark.parametrize("word", ["/nosuch", "nosuch", "/etc", "/etc/passwd", "/etc/passwd/x", ""])
def test_a_container(shared_pod: Pod, runc_pod: Pod, word: str) -> None:
    """Its reason, its exit code and its message."""
    expected, found = start(runc_pod, word), start(shared_pod, word)
    assert found == expected
    assert found[0] == "StartError"


def start(pod: Pod, word: str) -> tuple[str, int, str]:
    """Return what a container's status says that could not be started."""
    container = pod.create(word)
    with pytest.raises(CriError):
        container.start()
    status = container.status()
    container.remove()
    return status.reason, status.exit_code, find_reason(status.message)
