"""kata-runtime features: what this runtime can do, in the words of the specification."""

from __future__ import annotations

import json

from kata.oci.features import describe_features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb

# Those of the host are this program's, startContainer the guest's.
_HOOKS = (
    "prestart",
    "createRuntime",
    "startContainer",
    "poststart",
    "poststop",
)


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Print the document."""
    print(json.dumps({**describe_features(), "hooks": list(_HOOKS)}, indent=4))
    return 0
