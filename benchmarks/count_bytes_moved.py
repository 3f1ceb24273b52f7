"""Claim: one target of a DESI coadd needs 1.5 MB in 40 requests at most, all of them what they take.

A coadd of 500 targets is fabricated with the columns and widths of real ones (tests/full_coadds.py),
with its redrock file, and served by a server of files with byte ranges (tests/range_server.py) and
by one that speaks S3 (moto), each in a process of its own. Bytes and requests are counted where they
come in; "again" is a second time, with the cache that is there by then.

Usage: python count_bytes_moved.py [TARGETS]
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from full_coadds import write
from range_server import serving
from stores import public_bucket

from spender_core import registry
from spender_core.archives.remote.fetching import traffic

BELOW = "dr1/spectro/redux/iron/healpix"


@contextmanager
def served(kind: str, folder: Path) -> Iterator[str]:
    """Serve a folder; give the root."""
    if kind == "http":
        with serving(folder) as server:
            yield server.root
        return
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.fits")}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        os.environ.pop(name, None)
    with public_bucket("desidata", contents) as url:
        os.environ["AWS_ENDPOINT_URL"] = url
        yield "s3://desidata"


def main() -> None:
    targets = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    desi = registry.instrument("desi")
    with tempfile.TemporaryDirectory() as place:
        made = write(Path(place) / BELOW, targets)
        whole = made.coadd.stat().st_size
        print(f"{targets} targets, {whole / 1e6:.0f} MB")
        file = made.coadd.relative_to(place)
        one = [("sv3", "dark", 26065, int(made.targets[targets // 3]))]
        for kind in ("http", "s3"):
            with served(kind, Path(place)) as root:
                for name, source, lsf in (
                    ("one target", one, False),
                    ("one target, with resolution", one, True),
                    ("all", f"{root}/{file}", False),
                    ("all, with resolution", f"{root}/{file}", True),
                ):
                    options = {"root": root} if source is one else {}
                    with tempfile.TemporaryDirectory() as home:
                        os.environ["SPENDER_HOME"] = home
                        for turn in ("", ", again"):
                            before = traffic()
                            desi.read(source, quality=False, lsf=lsf, **options)
                            after = traffic()
                            size = after.bytes - before.bytes
                            print(
                                f"  {kind}, {name}{turn}: {size / 1e6:.2f} MB, "
                                f"{100 * size / whole:.2f} percent, "
                                f"{after.requests - before.requests} requests"
                            )


if __name__ == "__main__":
    main()
