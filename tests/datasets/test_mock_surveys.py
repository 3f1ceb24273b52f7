"""What surveys look at: redshifts and signal-to-noise ratios."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spender_core.datasets.mock.surveys import WHAT, Sample, Survey, survey
from spender_core.errors import InputError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_main_sample_of_sdss_has_its_median_redshift() -> None:
    z, snr = survey("sdss").draw(20000, seeded(0))
    assert z.dtype == torch.float64
    assert float(z.median()) == pytest.approx(0.104, abs=0.01)
    assert float(z.min()) > 0
    assert float(z.max()) < 0.53
    assert 10 < float(snr.median()) < 16
    assert float((snr > 40).float().mean()) > 0.03


def test_each_survey_looks_deeper_than_the_one_before() -> None:
    medians = [
        float(survey(name).draw(5000, seeded(0))[0].quantile(0.9))
        for name in ("sdss", "boss", "desi")
    ]
    assert medians == sorted(medians)


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("instrument", ["sdss", "boss", "desi", "mine"])
def test_limits_hold_and_the_seed_decides(what: str, instrument: str) -> None:
    limited = survey(instrument, what).within((-0.0005, 1.2), (3.0, 20.0))
    z, snr = limited.draw(2000, seeded(5))
    assert float(z.min()) >= -0.0005
    assert float(z.max()) <= 1.2
    assert float(snr.min()) >= 3
    assert float(snr.max()) <= 20
    again = limited.draw(2000, seeded(5))
    assert torch.equal(z, again[0])
    assert torch.equal(snr, again[1])


@pytest.mark.parametrize("limits", [(3.0, 6.0), (10.0, 11.0), (90.0, 200.0), (1e6, 2e6)])
def test_nothing_piles_up_at_the_limits(limits: tuple[float, float]) -> None:
    """Distributions are cut, not clamped: no value holds more than chance gives it."""
    for instrument, what in (("desi", "galaxies"), ("sdss", "stars")):
        z, snr = survey(instrument, what).within((-2e-4, 0.9), limits).draw(4000, seeded(2))
        assert float(snr.min()) >= limits[0]
        assert float(snr.max()) <= limits[1]
        for values in (z, snr):
            assert int(values.unique(return_counts=True)[1].max()) <= 2
        inside = snr.log10()
        middle = float((inside.max() + inside.min()) / 2)
        assert middle == pytest.approx(
            sum(np.log10(limits)) / 2, abs=0.2 * np.ptp(np.log10(limits))
        )


def test_limits_leave_the_distribution_between_them_as_it_was() -> None:
    """Drawing within limits is drawing from all, and leaving out what is outside."""
    only = Survey((Sample("all", 1.0, ((0.0, 1.0), (1.0, 1.0)), 6.0, 0.3),))
    for wide, narrow in (
        (only.within(None, (1e-3, 1e3)), only.within(None, (4.0, 15.0))),
        (only.within(None, (1e-3, 1e3)), only.within(None, (8.0, 60.0))),
    ):
        every, cut = (one.draw(200000, seeded(k))[1] for k, one in enumerate((wide, narrow)))
        low, high = narrow.snr_range
        kept = every[(every >= low) & (every <= high)]
        for share in (0.1, 0.5, 0.9):
            assert float(kept.quantile(share)) == pytest.approx(
                float(cut.quantile(share)), rel=0.02
            )


def test_a_range_of_one_value_gives_it() -> None:
    assert survey("sdss").within(None, (8.0, 8.0)).draw(9, seeded(0))[1].tolist() == [8.0] * 9


def test_stars_move_as_the_disc_and_the_halo_do() -> None:
    z, _ = survey("desi", "stars").draw(20000, seeded(0))
    kms = 299792.458 * z
    assert float(kms.mean()) == pytest.approx(0, abs=3)
    assert float(kms.std()) == pytest.approx((0.7 * 39**2 + 0.3 * 120**2) ** 0.5, rel=0.05)


def test_a_range_keeps_the_shape_of_the_distribution() -> None:
    """A density that rises as z has the cumulative distribution z^2 of its part."""
    rising = Survey((Sample("all", 1.0, ((0.0, 0.0), (1.0, 1.0)), 10.0),), (0.5, 1.0))
    z, _ = rising.draw(40000, seeded(1))
    assert float(z.median()) == pytest.approx(((0.25 + 1) / 2) ** 0.5, abs=0.005)


def test_samples_out_of_range_are_not_drawn() -> None:
    far = Sample("far", 0.9, ((1.0, 1.0), (2.0, 1.0)), 10.0)
    half = Sample("half", 0.1, ((0.0, 1.0), (1.0, 1.0)), 10.0)
    z, _ = Survey((far, half), (0.0, 0.5)).draw(500, seeded(0))
    assert float(z.max()) <= 0.5


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="1 object or more, not 0"):
        survey("sdss").draw(0, seeded(0))
    with pytest.raises(InputError, match="what must be one of galaxies"):
        survey("sdss", "planets")
    with pytest.raises(InputError, match="no object has a redshift within 5 to 6"):
        survey("sdss").within((5.0, 6.0))
    with pytest.raises(InputError, match="snr_range must be"):
        survey("sdss").within(None, (5.0, 2.0))
    with pytest.raises(InputError, match="z_range must be"):
        survey("sdss").within((0.3, 0.2))
