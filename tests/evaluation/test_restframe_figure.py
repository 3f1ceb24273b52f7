"""The picture of the restframe's error: every curve has its own name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from spender_core.evaluation.figures import restframe_figure
from spender_core.evaluation.report import RestProfile
from spender_core.evaluation.restframe import WINDOWS


def test_a_window_that_no_mock_covers_leaves_the_others_their_names() -> None:
    draw = np.random.default_rng(0)
    errors = {name: draw.uniform(0.02, 0.05, 200) for name in WINDOWS}
    errors[WINDOWS[1]] = np.full(200, np.nan)
    errors[WINDOWS[2]] *= 10
    tables = (draw.uniform(0.01, 0.1, (200, 10)) for _ in range(2))
    mocks: Any = SimpleNamespace(
        errors=errors,
        snr=draw.uniform(2, 50, 200),
        profile=RestProfile(np.linspace(3000, 4000, 11), *tables),
    )
    lines = {str(line.get_label()): line for line in restframe_figure(mocks).axes[1].get_lines()}
    assert WINDOWS[1] not in lines
    assert np.max(lines[WINDOWS[0]].get_ydata()) < 0.06
    assert np.min(lines[WINDOWS[2]].get_ydata()) > 0.15
