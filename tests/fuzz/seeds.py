"""The sound files from which mutations start: small ones made here, and real ones where they are.

The small ones are kept in `corpus/KIND/seed-NAME/`; `PYTHONPATH=tests python -m fuzz.seeds`
writes them again. Beside them lie inputs that once failed.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
BINARY = ("safetensors", "pt", "fits")
TEXT = ("cards", "ids", "names", "recipes")
KINDS = (*BINARY, *TEXT)

Files = dict[str, bytes]
"""The files of one input by name; the first is read, others lie beside it."""

LARGEST = 5_000_000
"""Bytes of the largest real file that is mutated."""
MODELS = ("sdss_demo", "boss_demo", "desi_demo")

SMALL: dict[str, Any] = {
    "n_latent": 2,
    "filters": (3, 4, 6),
    "sizes": (3, 5, 3),
    "encoder_hidden": (5,),
    "decoder_hidden": (7,),
}


@cache
def corpus(kind: str) -> dict[str, Files]:
    """Return the committed inputs of a kind, by name."""
    folders = sorted(path for path in (CORPUS / kind).iterdir() if path.is_dir())
    return {folder.name: _files(folder) for folder in folders}


def _files(folder: Path) -> Files:
    # coadd- before redrock-: what is read comes first
    return {
        path.name.removesuffix(".gz"): gzip.decompress(path.read_bytes())
        for path in sorted(folder.iterdir())
    }


def store(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write an input as the corpus keeps it: each file compressed, the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))


def small(kind: str) -> list[tuple[str, Files]]:
    """Return the sound files of the corpus."""
    return [(name, files) for name, files in corpus(kind).items() if name.startswith("seed-")]


@cache
def real(kind: str) -> list[tuple[str, list[Path]]]:
    """Return real files of a kind: those of the plugins, and below SPENDER_TEST_DATA."""
    if kind == "safetensors":
        from spender_core import registry

        return [(name, [registry.pull(name)]) for name in MODELS]
    root = os.environ.get("SPENDER_TEST_DATA")
    if not root or kind not in BINARY:
        return []
    patterns = {"pt": ["*.pt"], "fits": ["spec-*.fits", "coadd-*.fits", "redrock-*.fits"]}
    paths = [path for pattern in patterns[kind] for path in sorted(Path(root).rglob(pattern))]
    return [(path.name, _with_partner(path)) for path in paths if path.stat().st_size < LARGEST]


def _with_partner(path: Path) -> list[Path]:
    partner = path.with_name(path.name.replace("coadd-", "redrock-", 1))
    return [path, partner] if partner != path and partner.exists() else [path]


def spec(run2d: str, start: float, pixels: int = 120) -> bytes:
    """Make a spec file of SDSS (run2d 26) or BOSS (v5_13_0)."""
    import numpy as np
    from astropy.io import fits

    rng = np.random.default_rng(1)
    loglam = np.round(start + 1e-4 * np.arange(pixels), 4)
    zero = np.zeros(pixels)
    flux = 5 + rng.normal(0, 0.5, pixels)
    coadd = {"flux": flux, "loglam": loglam, "ivar": zero + 4, "and_mask": zero, "or_mask": zero}
    boss = not run2d.isdigit()
    kind = "OBJTYPE" if boss else "SOURCETYPE"
    row = {"ZWARNING": 0, "Z": 0.1, "Z_ERR": 2e-5, "CLASS": "GALAXY", "PLATE": 412, "MJD": 52254}
    row |= {"FIBERID": 308, "RUN2D": run2d, kind: "GALAXY"}
    hdus = [
        fits.PrimaryHDU(),
        _table("" if boss else "COADD", {k.upper() if boss else k: v for k, v in coadd.items()}),
        _table("" if boss else "SPECOBJ", {name: [value] for name, value in row.items()}),
    ]
    return _written(hdus)


def coadd(compressions: Sequence[str] = ("RICE_1", "GZIP_2", "GZIP_1"), pixels: int = 800) -> Files:
    """Make a coadd of two targets in three short cameras, and its redrock file.

    Shorter cameras would make it smaller than a file of two spectra can be.
    """
    import numpy as np
    from astropy.io import fits

    targets = np.array([39627000000000001, 39627000000000007])
    hdus: list[Any] = [fits.PrimaryHDU()]
    hdus[0].header.update({"SURVEY": "sv3", "PROGRAM": "bright", "HPXPIXEL": 57})
    columns = {"TARGETID": targets, "COADD_FIBERSTATUS": np.zeros(2, "i4")}
    columns |= {"OBJTYPE": np.array(["TGT"] * 2), "DESI_TARGET": np.array([1, 1 << 60])}
    hdus.append(_table("FIBERMAP", columns))
    cameras = zip("BRZ", (5000.0, 5760.0, 7520.0), compressions, strict=True)
    for camera, first, compression in cameras:
        wave = first + 0.8 * np.arange(pixels)
        flux = (np.array([[2.0], [3.0]]) + np.arange(pixels) % 7 / 10).astype("f4")
        images = {"WAVELENGTH": wave, "FLUX": flux, "IVAR": np.full((2, pixels), 4, "f4")}
        hdus += [fits.ImageHDU(image, name=f"{camera}_{part}") for part, image in images.items()]
        mask = np.zeros((2, pixels), "i4")
        hdus.append(fits.CompImageHDU(mask, name=f"{camera}_MASK", compression_type=compression))
    redshifts = {"TARGETID": targets[::-1], "Z": np.array([0.3, 0.1]), "ZERR": np.full(2, 1e-5)}
    redshifts |= {"ZWARN": np.zeros(2, "i8"), "DELTACHI2": np.full(2, 1000.0)}
    redrock = [fits.PrimaryHDU(), _table("REDSHIFTS", redshifts)]
    return {"coadd-seed.fits": _written(hdus), "redrock-seed.fits": _written(redrock)}


def _table(name: str, columns: Mapping[str, Any]) -> Any:
    import numpy as np
    from astropy.io import fits

    made = []
    for column, values in columns.items():
        array = np.asarray(values)
        wide = column.startswith("DESI_") or (array.dtype.kind == "i" and abs(array).max() > 2**31)
        kinds = {"i": "K" if wide else "J", "f": "E", "U": f"{array.dtype.itemsize // 4 or 1}A"}
        kind = "J" if column.lower().endswith("_mask") else kinds[array.dtype.kind]
        made.append(fits.Column(column, kind, array=array))
    return fits.BinTableHDU.from_columns(made, name=name or None)


def _written(hdus: list[Any]) -> bytes:
    from astropy.io import fits

    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer)
    return buffer.getvalue()


def _safetensors(folder: Path) -> None:
    import torch

    from spender_core import registry
    from spender_core.nn.autoencoder import SpectrumAutoencoder
    from spender_core.nn.flow import MaskedAutoregressiveFlow
    from spender_core.records import ModelCard, ServedInstrument

    torch.manual_seed(1)
    rest = torch.linspace(3000, 10000, 31, dtype=torch.float64)
    served = {"one": ["sdss"], "joint": ["desi", "sdss", "boss"]}
    for name, names in served.items():
        instruments = [registry.instrument(one) for one in names]
        taps = {names[0]: 3} if name == "joint" else {}
        model = SpectrumAutoencoder(instruments, rest, lsf_taps=taps, **SMALL)
        card = ModelCard(name=name, architecture="spectrum_autoencoder", latents=2)
        registry.save(folder / f"{name}.safetensors", model, card)
    desi = ServedInstrument(name="desi", grid=registry.instrument("desi").grid.sha256)
    card = ModelCard(name="flow", kind="flow", architecture="maf", latents=3, instruments=(desi,))
    flow = MaskedAutoregressiveFlow(3, hidden=4, transforms=2, blocks=1)
    registry.save(folder / "flow.safetensors", flow, card)


def _autoencoder() -> dict[str, Any]:
    """Make the state of an autoencoder as spender 0.3 names it."""
    import torch

    state = {"decoder.wave_rest": torch.linspace(3000, 10000, 11)}
    for k, (n_in, n_out, size) in enumerate(((1, 3, 3), (3, 4, 5), (4, 6, 3)), 1):
        state[f"encoder.conv{k}.0.weight"] = torch.randn(n_out, n_in, size)
        state[f"encoder.conv{k}.0.bias"] = torch.randn(n_out)
        state[f"encoder.conv{k}.2.weight"] = torch.rand(n_out)
    for part, widths in (("encoder", (3, 5, 2)), ("decoder", (2, 7, 11))):
        for k in range(2):
            state[f"{part}.mlp.{3 * k}.weight"] = torch.randn(widths[k + 1], widths[k])
            state[f"{part}.mlp.{3 * k}.bias"] = torch.randn(widths[k + 1])
            if part == "decoder":
                state[f"{part}.mlp.{3 * k + 1}.beta"] = torch.randn(widths[k + 1])
                state[f"{part}.mlp.{3 * k + 1}.gamma"] = torch.randn(widths[k + 1])
            elif k == 0:
                state[f"{part}.mlp.{3 * k + 1}.weight"] = torch.rand(widths[k + 1])
    return state


def _flow(n_latent: int = 3, hidden: int = 4) -> dict[str, Any]:
    """Make the state of a flow as nflows names it."""
    import torch

    state = {
        "_transform._transforms.0._shift": torch.randn(n_latent),
        "_transform._transforms.0._scale": torch.rand(n_latent) + 0.5,
    }
    inner = torch.arange(hidden) % (n_latent - 1) + 1
    outer = torch.arange(1, n_latent + 1).repeat_interleave(2)
    for k in range(2):
        home = f"_transform._transforms.1._transforms.{k}._transforms."
        state[f"{home}1._permutation"] = torch.randperm(n_latent)
        layers = {"initial_layer": (n_latent, inner), "blocks.0.linear": (hidden, inner)}
        for name, (n_in, degrees) in (layers | {"final_layer": (hidden, outer)}).items():
            net = f"{home}0.autoregressive_net.{name}"
            state[f"{net}.weight"] = torch.randn(len(degrees), n_in)
            state[f"{net}.bias"] = torch.randn(len(degrees))
            state[f"{net}.degrees"] = degrees
            state[f"{net}.mask"] = torch.ones(len(degrees), n_in)
    return state


def _pt(folder: Path) -> None:
    import numpy as np
    import torch

    from spender_core import registry

    torch.manual_seed(2)
    grid = {"encoder.instrument.wave_obs": torch.tensor(registry.instrument("sdss").wave).float()}
    kernel = {"encoder.instrument.lsf.weight": torch.rand(1, 1, 3)}
    plain = {"model": [_autoencoder() | kernel], "losses": np.zeros((3, 2))}
    torch.save({"model": [_autoencoder() | grid], "losses": None}, folder / "grid.pt")
    torch.save(plain, folder / "plain.pt")
    torch.save(plain, folder / "refused-bare.pt", _use_new_zipfile_serialization=False)
    torch.save(_flow(), folder / "flow.pt")


def _texts() -> dict[str, dict[str, bytes]]:
    from spender_core import registry
    from spender_core.training.reading import text_of

    ids = {
        "sdss": ["sdss", [412, 52254, 308]],
        "boss": ["boss", [3655, 55240, 104, "v5_13_0"]],
        "desi": ["desi", ["sv3", "dark", 26065, 39627]],
    }
    return {
        "cards": {
            name: registry.info(name).to_json().encode() for name in ("sdss_II", "boss_demo")
        },
        "ids": {name: json.dumps(content).encode() for name, content in ids.items()},
        "names": {
            "name": b"sdss_demo",
            "path": b"../models/sdss.safetensors",
            "hub": b"hf:owner/repository/folder/file.pt",
            "package": b"package:spender_sdss/models/sdss_demo.safetensors",
        },
        "recipes": {
            name: text_of(name)[0].encode() for name in ("sdss_II", "joint_sdss_boss_desi")
        },
    }


def main() -> None:
    """Write the sound files of the corpus."""
    for name, run2d, start in (("sdss", "26", 3.70), ("boss", "v5_13_0", 3.72)):
        content = {f"spec-{name}.fits": spec(run2d, start)}
        store(CORPUS / "fits" / f"seed-{name}", content)
    store(CORPUS / "fits" / "seed-desi", coadd())
    store(CORPUS / "fits" / "refused-compression", coadd(("RICE_1", "PLIO_1", "RICE_1")))
    for kind, make in (("safetensors", _safetensors), ("pt", _pt)):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            for path in sorted(Path(folder).iterdir()):
                name = path.stem if path.stem.startswith("refused") else f"seed-{path.stem}"
                store(CORPUS / kind / name, {path.name: path.read_bytes()})
    for kind, entries in _texts().items():
        for name, content in entries.items():
            store(CORPUS / kind / f"seed-{name}", {name: content})


if __name__ == "__main__":
    main()
