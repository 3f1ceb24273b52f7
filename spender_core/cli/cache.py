"""`spender pull` and `spender cache`: weights on this machine; needs neither torch nor astropy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from spender_core import registry
from spender_core.archives.downloads import cache
from spender_core.archives.location import parse, redacted
from spender_core.archives.remote import keeping
from spender_core.archives.writing import free_space
from spender_core.cli.show import print_table
from spender_core.errors import FileError, InputError, SpenderError, UnknownNameError
from spender_core.records import printable


def pull(names: Sequence[str], everything: bool) -> None:
    """Bring models into the cache; try all of them, and list those that failed at the end."""
    if everything:
        names = [*names, *registry.list()]
    if not names:
        raise InputError("name the models to pull, or give --all; `spender list` shows them")
    failed: list[tuple[str, str]] = []
    for name in dict.fromkeys(names):
        try:
            print(registry.pull(name))
        except SpenderError as error:
            failed.append((redacted(name), str(error)))
    for name, cause in failed:
        print(printable(f"not pulled: {name}: {cause}"), file=sys.stderr)
    if failed:
        raise SpenderError(
            f"{len(failed)} of {len(dict.fromkeys(names))} models could not be pulled"
        )


def show() -> None:
    """List what the cache and the shared ones hold."""
    rows = []
    for one in _everything():
        state = _size(one.size) if one.size else "removed" if one.record else "not finished"
        if one.trouble:
            state = "its record or folder cannot be read"
        if one.leftover:
            state += f", {_size(one.leftover)} of an interrupted download"
        record = one.record
        commit = f" at {record.commit[:8]}" if record and record.commit else ""
        rows.append(
            (
                _model(one) or one.entry.file,
                state,
                record.sha256[:16] if record else "",
                f"{record.location}{commit}" if record else "",
                record.time if record else "",
                "yours" if one.root == cache.home() else "shared",
            )
        )
    print_table(("model", "size", "sha256", "from", "downloaded", "cache"), rows)
    _print_folders()


def verify() -> None:
    """Check the hash of every file."""
    held = [one for one in _everything() if one.size or one.trouble]
    damaged = 0
    for one in held:
        trouble = one.trouble or one.damage()
        damaged += bool(trouble)
        known = "ok" if one.record else "not downloaded by spender, its hash is not known"
        print(f"{'damaged' if trouble else known}: {one.entry.path}{trouble and f': {trouble}'}")
    if damaged:
        raise FileError(
            f"{damaged} of {len(held)} are damaged or cannot be read; `spender cache prune` removes "
            "damaged ones from your cache, and the next load brings them again"
        )
    print(f"{len(held)} files, none of them damaged")


def prune(names: Sequence[str], everything: bool, forget: bool, data: bool = False) -> None:
    """Remove leftovers and damaged files, and the models that are named, from the user's cache.

    Files of archives go too with `data`, all of them.
    """
    held = cache.kept()
    chosen = {one.entry.folder for one in held} if everything else {_folder(name) for name in names}
    missing = chosen - {one.entry.folder for one in held}
    if missing:
        raise InputError(
            f"{len(missing)} of {', '.join(map(redacted, names))} are not in the cache, {cache.home()}; `spender "
            "cache list` shows what is"
        )
    freed = keeping.clear() if data else 0
    for one in held:
        whole = one.entry.folder in chosen or bool(one.size and one.damage())
        freed += cache.clear(one, whole, forget and one.entry.folder in chosen)
    print(f"{_size(freed)} removed from {cache.home()}")


def size() -> None:
    """Print the size of the caches, and the space that is left."""
    _print_folders()


def _everything() -> list[cache.Kept]:
    return [one for root in (cache.home(), *cache.shared()) for one in cache.kept(root)]


def _folder(name: str) -> Path:
    """Return the folder of a model in the user's cache, by its name or location."""
    text = name if registry.is_file(name) else registry.info(name).weights
    if text.startswith("package:"):
        raise InputError(f"{redacted(name)} comes with its plugin, and is not in the cache")
    return cache.entry(parse(text)).folder


def _model(one: cache.Kept) -> str:
    """Return the name of the installed model that an entry of the cache belongs to."""
    for name in registry.list():
        try:
            if _folder(name).name == one.entry.folder.name:
                return name
        except (InputError, UnknownNameError):
            continue
    return ""


def _print_folders() -> None:
    for root in (cache.home(), *cache.shared()):
        held = cache.kept(root)
        total = sum(one.size + one.leftover for one in held)
        files = sum(bool(one.size) for one in held)
        kind = "yours" if root == cache.home() else "shared, never written"
        free = f", {_size(free_space(root))} free" if root.is_dir() else ", which is not there"
        print(f"{root} ({kind}): {files} files, {_size(total)}{free}")
    spectra = keeping.used()
    taken, most = _size(sum(one.size for one in spectra)), _size(keeping.bound())
    print(f"{keeping.folder()} (spectra): {len(spectra)} files, {taken} of at most {most}")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
