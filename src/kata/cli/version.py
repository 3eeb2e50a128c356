"""kata-runtime version: of this program, and of the specification that it follows."""

from __future__ import annotations

from kata.base.version import VERSION
from kata.oci.features import SPEC_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Print the versions, in the form that engines read."""
    print(f"{settings.program} version {VERSION}\nspec: {SPEC_VERSION}")
    return 0
