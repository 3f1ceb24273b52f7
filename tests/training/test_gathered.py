"""Two processes find the losses and gradients of the whole batch, as one does that has all of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
import torch.distributed as dist
from ranks import CASES

from spender_core.errors import InputError
from spender_core.training.gathering import parts_of

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch has no gloo here"
)
WORLD = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    started = [
        subprocess.Popen(
            [sys.executable, ranks.__file__, str(folder), str(rank), str(WORLD)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * WORLD, "\n".join(errors)
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.broken])
def test_values_and_gradients_are_those_of_the_whole_batch(
    found: list[dict[str, Any]], name: str
) -> None:
    alone = ranks.run(CASES[name])
    for process in found:
        one = process[name]
        assert one["count"] == alone["count"] == sum(CASES[name].counts.values())
        assert one["values"].keys() == alone["values"].keys()
        for key in alone["values"].keys() - {"total", "finite"}:
            torch.testing.assert_close(one["values"][key], alone["values"][key], rtol=1e-11, atol=0)
        assert bool(one["values"]["finite"])
        assert one["gradients"].keys() == alone["gradients"].keys()
        largest = max(float(expected.abs().max()) for expected in alone["gradients"].values())
        for key, expected in alone["gradients"].items():
            # some are 0 but for rounding: normalisation takes off the bias of a convolution
            bound = 1e-10 * float(expected.abs().max()) + 1e-14 * largest
            torch.testing.assert_close(one["gradients"][key], expected, rtol=0, atol=bound)
    means = torch.stack([process[name]["values"]["total"] for process in found]).mean()
    torch.testing.assert_close(means, alone["values"]["total"], rtol=1e-11, atol=0)


def test_losses_are_there(found: list[dict[str, Any]]) -> None:
    """So that the comparison is not one of zeros."""
    values = found[0]["all, restframe"]["values"]
    assert all(float(values[key]) > 0.01 for key in ("fidelity", "similarity", "consistency"))
    assert float(found[0]["all, data"]["values"]["similarity"]) > 0.01


def test_gaps_change_the_consistency(found: list[dict[str, Any]]) -> None:
    """So that those of each process are filled with its own reconstructions."""
    unfilled = replace(CASES["filled gaps"], gaps=False)
    values = (
        one["values"]["consistency"] for one in (found[0]["filled gaps"], ranks.run(unfilled))
    )
    assert not torch.isclose(*values, rtol=1e-3)


def test_every_process_learns_of_a_bad_spectrum(found: list[dict[str, Any]]) -> None:
    """It is in the last process only."""
    assert not any(bool(process["a spectrum that is NaN"]["values"]["finite"]) for process in found)


def test_parts_that_do_not_fit_are_refused() -> None:
    cpu = torch.device("cpu")
    assert parts_of(3, cpu) == parts_of(3, cpu, (3,)) == [3]
    for parts in ((4,), (3, 3), ()):
        with pytest.raises(InputError, match="process 0 of 1 has 3 spectra"):
            parts_of(3, cpu, parts)
