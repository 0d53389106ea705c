"""Functions that find, check and read RLlib checkpoints on disk.

Checkpoints consist of pickles, and unpickling a file can run any code. A pickle is therefore read only if it needs no
other names than those of :mod:`rllib_reciprocator.utils.pickle_allow_list`; ``--trust`` disables this check.
"""

from rllib_reciprocator.utils.checkpoints.configs import Description, describe, read_config
from rllib_reciprocator.utils.checkpoints.folders import (
    METADATA,
    MODULE_PATH,
    find_checkpoint,
    module_in,
    newest_trials,
)
from rllib_reciprocator.utils.checkpoints.pickles import (
    TRUST,
    check_pickles,
    check_weights,
    is_trusted,
    read_constructor,
    unpickle,
)
from rllib_reciprocator.utils.checkpoints.versions import (
    VERSION,
    VersionedCheckpoints,
    package_version,
    warn_of_later_version,
)

__all__ = [
    "METADATA",
    "MODULE_PATH",
    "TRUST",
    "VERSION",
    "Description",
    "VersionedCheckpoints",
    "check_pickles",
    "check_weights",
    "describe",
    "find_checkpoint",
    "is_trusted",
    "module_in",
    "newest_trials",
    "package_version",
    "read_config",
    "read_constructor",
    "unpickle",
    "warn_of_later_version",
]
