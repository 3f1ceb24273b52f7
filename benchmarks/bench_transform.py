"""Claim: the reference transform is no slower than that of spender 0.3, at float64 coordinates.

256 restframe spectra of 9,780 pixels to DESI's 7,781, forward and backward, at new redshifts
for every call, interleaved with spender 0.3 in one process. The floor is a copy of the bytes
that go in and out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from spender import SpectrumDecoder
from spender.data import desi as peer_desi
from spender_desi.instrument import DESI

from spender_core.ops.redshift import redshift

RUNS, BATCH, REST = 5, 256, 9780


def milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    torch.manual_seed(0)
    wave_obs = torch.tensor(DESI().wave)
    wave_rest = torch.linspace(2000.0, 9824.0, REST)
    # spender applies an LSF unless it is None; its calibration is None too
    peer_instrument = peer_desi.DESI()
    peer = SpectrumDecoder(wave_rest, n_latent=2, n_hidden=(2, 2, 2))
    nodes = wave_rest.double()
    x = torch.rand(BATCH, REST, requires_grad=True)
    cotangent = torch.rand(BATCH, len(wave_obs))
    times: dict[str, list[float]] = {}

    def record(name: str, function: Callable[[], object]) -> None:
        times.setdefault(name, []).append(milliseconds(function))

    for _ in range(RUNS + 1):
        z = 0.8 * torch.rand(BATCH, dtype=torch.float64)
        z_grad = z.clone().requires_grad_()

        def ours(z_=z_grad) -> None:
            redshift(x, nodes, wave_obs, z_)[0].backward(cotangent)

        def theirs(z_=z_grad) -> None:
            peer.transform(x, peer_instrument, z=z_).backward(cotangent.double())

        with torch.no_grad():
            record("spender 0.3 forward", lambda z_=z: peer.transform(x, peer_instrument, z=z_))
            record("ours forward", lambda z_=z: redshift(x, nodes, wave_obs, z_))
            record("copy of the bytes", lambda: (x.clone(), cotangent.clone()))
        record("spender 0.3 forward, backward", theirs)
        record("ours forward, backward", ours)
    for name, values in times.items():
        values = values[1:]  # the first run warms up
        print(
            f"{name:32s} median {statistics.median(values):7.1f} ms  range {min(values):.1f}-{max(values):.1f}"
        )
    for kind in ("forward", "forward, backward"):
        ratios = [
            a / b
            for a, b in zip(
                times[f"spender 0.3 {kind}"][1:], times[f"ours {kind}"][1:], strict=True
            )
        ]
        print(
            f"{kind}: {statistics.median(ratios):.1f} times spender 0.3 ({min(ratios):.1f}-{max(ratios):.1f})"
        )


if __name__ == "__main__":
    main()
