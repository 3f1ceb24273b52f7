"""Claim: how crude the embedded models are on real SDSS and BOSS galaxies.

    python benchmarks/judge_real_galaxies.py FOLDER

takes every `spec-*.fits` below the folder with CLASS = GALAXY that passes the quality cuts,
and prints the median and the 16-84 percent range of the reduced chi square.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from astropy.io import fits

from spender_core import registry
from spender_core.cli.spectra import Models, encode, read


def main(folder: Path) -> None:
    models, values = Models(None), []
    for path in sorted(folder.rglob("spec-*.fits")):
        if str(fits.getdata(path, 2)["CLASS"][0]).strip() != "GALAXY":
            continue
        instrument = registry.recognise(str(path))
        content = read(instrument, str(path), everything=False)
        if content.rows:
            batch = content.batch[content.rows]
            values += encode(models.for_instrument(instrument), batch).chi2.tolist()
    low, middle, high = np.nanpercentile(values, [16, 50, 84])
    print(f"{len(values)} galaxies: reduced chi2 {middle:.1f} ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
