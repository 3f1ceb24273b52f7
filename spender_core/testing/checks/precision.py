"""Checks of the types of numbers, and of the devices that torch has."""

from __future__ import annotations

import torch

from spender_core.testing.faults import ContractError, expect
from spender_core.testing.subject import Subject


def check_precision(subject: Subject) -> None:
    """Spectra in float32 and float64 are prepared alike."""
    raw, made = subject.raw(), {}
    for dtype in (torch.float32, torch.float64):
        try:
            made[dtype] = subject.instrument.prepare(raw.to(dtype=dtype))
        except Exception as error:
            raise ContractError(
                f"spectra in {dtype} are masked and normalised",
                f"{dtype} is refused: {type(error).__name__}: {error}",
                "leave `prepare` of the instrument to core, and ask for no one type",
            ) from error
    single, double = made.values()
    expect(
        double.flux.dtype == torch.float64
        and torch.allclose(single.flux.double(), double.flux, 1e-3, 1e-5),
        expected="float64 spectra stay float64, and agree with those in float32",
        found=f"{double.flux.dtype}, or values that differ by more than 1e-3",
        fix="leave `prepare` of the instrument to core",
    )


def check_devices(subject: Subject) -> None:
    """Spectra are prepared on every device that torch has, as on the host."""
    raw = subject.raw()
    host = subject.instrument.prepare(raw)
    names = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    for name in ("cpu", *names):
        there = subject.instrument.prepare(raw.to(device=name, dtype=torch.float32))
        expect(
            torch.allclose(there.flux.cpu(), host.flux.float(), 1e-3, 1e-5),
            expected=f"spectra on {name} are normalised as on the host",
            found="they differ by more than 1e-3",
            fix="leave `prepare` of the instrument to core; make tensors on flux.device",
        )
