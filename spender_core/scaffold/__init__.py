"""A new plugin: a package for an instrument that nobody has seen yet, complete and tested."""

from spender_core.scaffold.names import check_name
from spender_core.scaffold.settings import Settings
from spender_core.scaffold.writing import write

__all__ = ["Settings", "check_name", "write"]
