"""Optimisers and schedules, against those of torch and their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spender_core.errors import InputError
from spender_core.training.config import Phase
from spender_core.training.schedules import make_optimizer, make_scheduler, rates


def phase(**settings: Any) -> Phase:
    return Phase(**({"name": "one", "steps": 10} | settings))


def parts() -> dict[str, list[nn.Parameter]]:
    return {name: [nn.Parameter(torch.ones(2))] for name in ("encoders.a", "encoders.b", "decoder")}


def curve(one: Phase, steps: int, part: str = "decoder") -> list[float]:
    """Return the learning rate in each step."""
    optimizer = make_optimizer(one, parts())
    scheduler = make_scheduler(one, optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(rates(optimizer)[part])
        optimizer.step()
        scheduler.step()
    return found


@settings(deadline=None)
@given(
    steps=st.integers(2, 60),
    warmup=st.floats(0, 1),
    final=st.floats(0, 1),
    schedule=st.sampled_from(["onecycle", "cosine", "constant"]),
)
def test_any_schedule_stays_within_its_rates(
    steps: int, warmup: float, final: float, schedule: str
) -> None:
    found = curve(phase(lr=0.1, schedule=schedule, warmup=warmup, final=final), steps)
    assert all(0 <= rate <= 0.1 * (1 + 1e-12) for rate in found)
    assert all(map(math.isfinite, found))
    if schedule == "cosine" and round(warmup * steps) < steps - 1:
        assert found[-1] == pytest.approx(0.1 * final, abs=1e-12)


@pytest.mark.parametrize(("warmup", "steps"), [(0.5, 2), (0.1, 10), (1.0, 10), (0.0, 2), (0.25, 4)])
def test_onecycle_takes_shares_at_which_torch_divides_by_zero(warmup: float, steps: int) -> None:
    found = curve(phase(lr=1.0, warmup=warmup), steps)
    assert len(found) == steps
    assert all(map(math.isfinite, found))


def test_onecycle_is_that_of_torch_with_the_defaults_of_spender() -> None:
    ours = curve(phase(lr=2e-3), 100)
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter], lr=2e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=100)
    theirs = []
    for _ in range(100):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-9)


def test_each_part_keeps_its_own_rate_in_proportion() -> None:
    lr = {"encoders": 1e-3, "encoders.b": 1e-4, "all": 1e-2}
    for schedule in ("onecycle", "cosine", "constant"):
        one = phase(lr=lr, schedule=schedule)
        first, second, third = (
            curve(one, 10, part) for part in ("encoders.a", "encoders.b", "decoder")
        )
        assert second == pytest.approx([rate / 10 for rate in first])
        assert third == pytest.approx([rate * 10 for rate in first])


def test_cosine_rises_linearly_and_falls_along_half_a_cosine() -> None:
    found = curve(phase(lr=1.0, schedule="cosine", warmup=0.2, final=0.1), 22)
    rise = round(0.2 * 22)
    assert found[:rise] == pytest.approx([(k + 1) / rise for k in range(rise)])
    fall = [0.1 + 0.45 * (1 + math.cos(math.pi * k / 17)) for k in range(18)]
    assert found[rise:] == pytest.approx(fall)


def test_a_part_without_a_rate_is_named() -> None:
    with pytest.raises(InputError, match=r"trains decoder.*names encoders.*\"all\""):
        make_optimizer(phase(lr={"encoders": 1e-3}), parts())


def test_nothing_to_train_and_too_few_steps_are_refused() -> None:
    with pytest.raises(InputError, match="trains no parameter"):
        make_optimizer(phase(), {"decoder": []})
    optimizer = make_optimizer(phase(), parts())
    with pytest.raises(InputError, match="two or more"):
        make_scheduler(phase(), optimizer, 1)


def test_parameters_of_two_parts_are_stepped_once() -> None:
    shared = nn.Parameter(torch.ones(2))
    optimizer = make_optimizer(phase(), {"encoders.a": [shared], "encoders.b": [shared]})
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


def test_settings_reach_the_optimiser() -> None:
    one = phase(optimizer="adamw", weight_decay=0.1, betas=(0.8, 0.99), eps=1e-6)
    optimizer = make_optimizer(one, parts())
    assert isinstance(optimizer, torch.optim.AdamW)
    for group in optimizer.param_groups:
        assert (group["weight_decay"], group["betas"], group["eps"]) == (0.1, (0.8, 0.99), 1e-6)


def test_the_fused_step_is_that_of_plain_adam() -> None:
    generator = torch.Generator().manual_seed(1)
    ours = parts()
    optimizer = make_optimizer(phase(lr=0.1), ours)
    twin = nn.Parameter(torch.ones(2))
    plain = torch.optim.Adam([twin], lr=0.1, fused=False, foreach=False)
    for _ in range(20):
        grad = torch.randn(2, generator=generator)
        twin.grad = grad.clone()
        ours["decoder"][0].grad = grad.clone()
        optimizer.step()
        plain.step()
    assert torch.allclose(ours["decoder"][0], twin, rtol=1e-5, atol=0)
