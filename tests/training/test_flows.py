"""Flows trained on latents whose density is known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from spender_core import registry
from spender_core.errors import InputError
from spender_core.training.flows import FlowSettings, save_flow, train_flow

SMALL = FlowSettings(transforms=2, hidden=16, bins=4, epochs=8, batch_size=256, seed=4)


def latents(n: int = 2000, seed: int = 0) -> torch.Tensor:
    """Return latents of a correlated normal distribution, shape (n, 2)."""
    factor = torch.tensor([[2.0, 0.0], [1.5, 0.5]])
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)) @ factor.T + 5


@pytest.mark.parametrize("kind", ["nsf", "maf"])
def test_likelihood_of_a_normal_distribution_is_reached(kind: str) -> None:
    settings = FlowSettings(kind, transforms=2, hidden=32, epochs=25, batch_size=256)
    made = train_flow(latents(8000), settings)
    # entropy of the normal distribution, in nats; log det of its covariance is 2 log(2 * 0.5)
    entropy = 1 + math.log(2 * math.pi)
    held = latents(20_000, seed=9)
    with torch.no_grad():
        nll = float(-made.flow.log_prob(held).mean())
    assert nll == pytest.approx(entropy, abs=0.03)


def test_same_seed_same_flow_whatever_the_global_state() -> None:
    flows = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        flows.append(train_flow(latents(), SMALL))
        assert torch.equal(torch.get_rng_state(), before)
    first, second = flows
    assert first.history == second.history
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            first.flow.state_dict().values(), second.flow.state_dict().values(), strict=True
        )
    )


def test_best_epoch_is_kept_and_training_stops_early() -> None:
    # 60 objects are soon learned by heart
    settings = FlowSettings(
        hidden=64, epochs=200, batch_size=30, lr=1e-2, patience=5, validation=0.5
    )
    made = train_flow(latents(120), settings)
    values = [nll for _, nll in made.history]
    assert made.nll == min(values)
    assert made.epoch == values.index(min(values)) + 1
    assert len(values) == made.epoch + 5
    assert len(values) < 200


def test_objects_of_one_id_are_on_one_side() -> None:
    ids = [str(row // 4) for row in range(2000)]
    made = train_flow(latents(), SMALL, ids=ids)
    assert made.validated % 4 == 0
    assert 0.05 * 2000 < made.validated < 0.15 * 2000
    assert made.trained + made.validated == 2000


def test_latents_that_are_not_finite_are_counted() -> None:
    s = latents(100)
    s[3, 0], s[7, 1], s[7, 0] = math.nan, math.inf, math.nan
    with pytest.raises(InputError, match="2 of 100 rows"):
        train_flow(s, SMALL)


@pytest.mark.parametrize(
    ("rows", "ids", "message"),
    [(0, None, r"\(N, S\)"), (5, None, "1 are for validation|0 are"), (50, ["a"], "1 ids for 50")],
)
def test_too_little_is_refused(rows: int, ids: list[str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_flow(latents(50)[:rows], SMALL, ids=ids)


def test_settings_without_sense_are_refused() -> None:
    for wrong in ({"lr": 0.0}, {"validation": 1.0}, {"epochs": 0}, {"weight_decay": -1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            FlowSettings(**wrong)  # type: ignore[arg-type]


def test_card_says_of_which_latents_it_is(tmp_path: Path) -> None:
    pytest.importorskip("spender_sdss")
    model = registry.info("sdss_demo")
    s = torch.randn(400, model.latents, generator=torch.Generator().manual_seed(2))
    made = train_flow(s, SMALL)
    path = tmp_path / "flow.safetensors"
    card = save_flow(path, made, model, "some_flow")
    instrument, flow = registry.load(path)
    assert instrument.name == "sdss"
    assert flow.card.parent == "sdss_demo"
    assert flow.card.training["model_sha256"] == model.sha256
    assert flow.card.training["latents_trained"] == 360
    assert flow.card.evaluation["validation_nll"] == round(made.nll, 5)
    assert torch.equal(flow.log_prob(s), made.flow.log_prob(s))
    assert len(card.sha256) == 64
    with pytest.raises(InputError, match="cannot be named"):
        save_flow(tmp_path / "other.safetensors", made, model, "not a name")
    with pytest.raises(InputError, match="the flow is of 2"):
        save_flow(tmp_path / "other.safetensors", train_flow(latents(), SMALL), model, "two")
    assert [one.name for one in tmp_path.iterdir()] == ["flow.safetensors"]
