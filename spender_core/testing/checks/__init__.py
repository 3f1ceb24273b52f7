"""All checks, in the order in which they are made: first what others rest on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from spender_core.testing.checks import (
    grid,
    ids,
    lines,
    loading,
    lsf,
    models,
    plugin,
    precision,
    processes,
    remote,
    rows,
)
from spender_core.testing.subject import Subject

Need = Literal["plugin", "instrument", "files"]


@dataclass(frozen=True)
class Check:
    """One rule.

    Attributes:
        group: What it is about.
        needs: What it looks at: an installed plugin, an instrument, or files too.
        function: Raises `ContractError` if the rule is broken, `NotApplicable` if it says nothing.
    """

    group: str
    needs: Need
    function: Callable[[Subject], None]

    @property
    def name(self) -> str:
        """Its name, in words."""
        return self.function.__name__.removeprefix("check_").replace("_", " ")

    @property
    def rule(self) -> str:
        """What must hold."""
        return (self.function.__doc__ or "").partition("\n")[0]


CHECKS = (
    Check("plugin", "plugin", plugin.check_plugin_offers),
    Check("plugin", "instrument", plugin.check_name),
    Check("grid", "instrument", grid.check_grid_increases),
    Check("grid", "instrument", grid.check_grid_is_stable),
    Check("grid", "instrument", grid.check_mask),
    Check("plugin", "files", plugin.check_example),
    Check("loader", "files", loading.check_recognises),
    Check("loader", "files", loading.check_loads),
    Check("loader", "files", loading.check_not_normalised),
    Check("loader", "files", loading.check_good_pixels),
    Check("loader", "files", loading.check_bad_pixel),
    Check("loader", "files", loading.check_ivar),
    Check("loader", "files", loading.check_redshifts),
    Check("loader", "files", loading.check_flags),
    Check("loader", "files", loading.check_read_normalises),
    Check("wavelengths", "files", lines.check_line_wavelength),
    Check("wavelengths", "files", lines.check_line_flux),
    Check("ids", "files", ids.check_ids),
    Check("ids", "files", ids.check_stable),
    Check("ids", "files", ids.check_ids_of_example),
    Check("ids", "files", ids.check_by_id),
    Check("rows", "files", rows.check_joined_in_order),
    Check("rows", "files", rows.check_load_rows),
    Check("rows", "files", rows.check_load_many),
    Check("lsf", "files", lsf.check_lsf),
    Check("lsf", "files", lsf.check_lsf_width),
    Check("remote", "files", remote.check_remote_equals_local),
    Check("processes", "instrument", processes.check_pickles),
    Check("processes", "files", processes.check_spawned_process),
    Check("precision", "files", precision.check_precision),
    Check("precision", "files", precision.check_devices),
    Check("models", "instrument", models.check_model),
    Check("models", "plugin", models.check_registry_round_trip),
)
"""The checks."""
