"""Claim: 10,000 ids through faults: every good spectrum comes, every bad one is told, three times.

Real files below SPENDER_TEST_DATA are served under 10,000 ids of SDSS by a process of its own
(tests/range_server.py), 50 ms after they are asked for. 1 percent of them are missing, 1 percent are
answered with 503, 0.5 percent are cut off (half of them by a lost connection, half by a server that
has only a part), and in place of 0.5 percent a web page comes, for good. `instrument.read(ids)` is
done three times, each with an empty cache. What comes must be equal to a direct read of the good
files from the disk, and the table of failures must hold each bad file with its cause.

Usage: SPENDER_TEST_DATA=... python soak_archive.py [IDS [LATENCY [TIMES]]]
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from faulty_archive import differences, fabricate, spoil
from range_server import serving

from spender_core import registry
from spender_core.archives.remote.fetching import traffic
from spender_core.errors import PartialReadWarning


def peak() -> float:
    """Return the most memory that this process ever had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    latency = float(sys.argv[2]) if len(sys.argv) > 2 else 0.05
    times = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    warnings.simplefilter("ignore", PartialReadWarning)
    sdss = registry.instrument("sdss")
    wrong = 0
    with tempfile.TemporaryDirectory() as place, serving(place, latency) as server:
        ids = fabricate(Path(place), Path(os.environ["SPENDER_TEST_DATA"]), count)
        bad = spoil(server, ids)
        good = [row for row in ids if row not in bad]
        begin = time.perf_counter()
        direct = sdss.read(good, root=place, release="dr17", quality=False)
        print(f"{len(direct)} good files from the disk: {time.perf_counter() - begin:.1f} s")
        print(f"{len(bad)} bad files: {dict(Counter(bad.values()))}; memory {peak():.0f} MB")
        tables = []
        for turn in range(1, times + 1):
            server.forget()
            before = traffic()
            with tempfile.TemporaryDirectory() as home:
                os.environ["SPENDER_HOME"] = home
                begin = time.perf_counter()
                read = sdss.read(ids, root=server.root, release="dr17", quality=False)
                took = time.perf_counter() - begin
            found = differences(read, direct, ids, bad)
            wrong += len(found)
            tables.append([(one.source, one.error) for one in read.failures])
            seen, after = server.seen(), traffic()
            print(
                f"{turn}: {len(read)} spectra and {len(read.failures)} failures in {took:.1f} s; "
                f"{seen.requests} requests ({after.retries - before.retries} again), at most "
                f"{seen.most} at once, {seen.bytes / 1e6:.0f} MB; memory {peak():.0f} MB; "
                f"{dict(Counter(error for _, error in tables[-1]))}; {len(found)} differences"
            )
            print("\n".join(f"   {text}" for text in found[:20]), end="")
        same = all(table == tables[0] for table in tables)
    print(f"the failures are {'the same' if same else 'NOT the same'} {times} times")
    if wrong or not same:
        sys.exit(1)


if __name__ == "__main__":
    main()
