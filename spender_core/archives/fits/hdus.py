"""FITS files, of which only what is asked for is read: headers one by one, rows of images and tables.

What a header claims is checked before anything is read or allocated by it, by the rules of
`claims`. Over the network, headers that lie close together come at once, and `Hdus.prefetch` brings
all parts that will be needed in one burst.

    with open_hdus(url) as hdus:
        flux = hdus["B_FLUX"].image(slice(0, 10))
        found = hdus["FIBERMAP"].table(["TARGETID", "OBJTYPE"])
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from spender_core.archives.fits import opening
from spender_core.archives.fits.claims import BLOCK, MOST_HDUS, MOST_HEADERS
from spender_core.archives.fits.hdu import Hdu
from spender_core.archives.fits.headers import find_header, layout_of
from spender_core.archives.fits.spans import Chosen, Parts, chosen
from spender_core.archives.remote.bytefile import ByteFile, MemoryFile
from spender_core.archives.remote.files import open_bytes
from spender_core.errors import DamagedFileError

LOOK = 2 * BLOCK
"""Bytes of a header that are looked at first; the cache of remote files brings more with them."""

_WHOLE = 1 << 19
"""Bytes of a local file that is read at once."""

Part = tuple[Hdu, Chosen, Sequence[str] | None]
"""An HDU, its wanted rows, and of a table its wanted columns."""


@contextmanager
def open_hdus(url: str, names: Collection[str] | None = None) -> Iterator[Hdus]:
    """Open a FITS file by path or URL, gzipped or not.

    Args:
        url: Its path or URL.
        names: Names of the HDUs that are of interest: once all are found, the search for others
            ends there.

    Raises:
        MissingFileError: The file does not exist.
        FileError: The file cannot be read, or is not FITS; or whoever reads it here fails.
        OfflineError: It is remote, and its server cannot be reached, or SPENDER_OFFLINE is set.
    """
    with opening.reading(url), open_bytes(url) as given, opening.plain(given) as file:
        yield Hdus(file, names)


class Hdus:
    """The HDUs of an open FITS file, by number or name; of several of one name, the first."""

    def __init__(self, file: ByteFile, names: Collection[str] | None = None) -> None:
        small = isinstance(file, MemoryFile) or (not file.remote and file.size <= _WHOLE)
        self._parts = Parts(file, file.read_at(0, file.size) if small else None)
        self._wanted = None if names is None else {name.upper() for name in names}
        self._found: list[Hdu] = []
        self._by_name: dict[str, Hdu] = {}
        self._next = self._headers = 0

    @property
    def size(self) -> int:
        """Size of the file, bytes."""
        return self._parts.size

    @property
    def names(self) -> list[str]:
        """Names of all HDUs."""
        return [hdu.name for hdu in self]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Hdu]:
        number = 0
        while number < len(self._found) or self._advance():
            yield self._found[number]
            number += 1

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name.upper()) is not None

    def __getitem__(self, which: int | str) -> Hdu:
        """Return an HDU by its number or name.

        Raises:
            DamagedFileError: There is none.
        """
        if isinstance(which, str):
            found = self._find(which.upper())
            if found is None:
                raise DamagedFileError(f"it has no HDU {which}, only {', '.join(self.names[:40])}")
            return found
        while len(self._found) <= which:
            if not self._advance():
                raise DamagedFileError(f"it has no HDU {which}, only {len(self._found)} of them")
        return self._found[which]

    def _find(self, name: str) -> Hdu | None:
        while name not in self._by_name:
            if not self._advance():
                return None
        return self._by_name[name]

    def _advance(self) -> bool:
        """Read the next header, if there is one that may be of interest."""
        if self._next >= self.size:
            return False
        if self._wanted is not None and self._found and self._wanted <= self._by_name.keys():
            return False
        number, start = len(self._found), self._next
        if number == MOST_HDUS:
            raise DamagedFileError(f"it has more than {MOST_HDUS} HDUs")
        self._guess(start)
        content = find_header(self._parts.read, number, start, self.size, LOOK)
        layout = layout_of(content, number)
        data = start + len(content)
        end = data + -(-layout.size // BLOCK) * BLOCK
        self._headers += len(content)
        if self._headers > MOST_HEADERS + self.size // 4:
            raise DamagedFileError(f"its headers take {self._headers} of {self.size} bytes")
        if end > self.size:
            raise DamagedFileError(
                f"HDU {number} claims {layout.size} bytes of data from byte {data} on, and the file "
                f"has {self.size}: it is truncated, or its header is damaged"
            )
        hdu = Hdu(self._parts, layout, content, data)
        self._found.append(hdu)
        self._by_name.setdefault(hdu.name, hdu)
        self._next = end
        return True

    def _guess(self, start: int) -> None:
        """Bring the header of the next HDU but one too, if images of one size seem to follow.

        Fluxes are followed by their variances: one wait less for each pair.
        """
        if not self._parts.file.remote or not self._found:
            return
        last = self._found[-1]
        if last.kind != "image" or len(last.shape) != 2 or last.paired:
            return
        other = start + self._next - last.start
        if other + LOOK <= self.size:
            last.paired = True
            self._parts.hold([(start, start + LOOK), (other, other + LOOK)])

    def prefetch(self, parts: Iterable[Part]) -> None:
        """Bring all that will be read of a remote file, at once.

        What is read later must be asked for with the same rows.

        Args:
            parts: HDU, rows or None for all, and of a table its columns, which do not matter
                as yet: FITS keeps rows together.
        """
        if not self._parts.file.remote:
            return
        wanted = [(hdu, chosen(rows, len(hdu))) for hdu, rows, _ in parts]
        self._parts.hold([one for hdu, rows in wanted for one in hdu.ranges(rows)])
        tiles = [one for hdu, rows in wanted for one in hdu.tile_ranges(rows)]
        self._parts.hold(tiles)
