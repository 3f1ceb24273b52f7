"""Weights that an installed package brings along."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from spender_core.archives.writing import file_sha256
from spender_core.errors import MissingFileError, WeightsError


def packaged(location: str, sha256: str, name: str) -> Path:
    """Return the path of a file inside an installed package.

    Args:
        location: `package:` and the package, a slash, and the path of the file in it.
        sha256: Its hash.
        name: The model, for messages.

    Raises:
        WeightsError: The package is missing, the file lies elsewhere, or its hash differs.
        MissingFileError: The package lacks the file.
    """
    package, _, file = location.removeprefix("package:").partition("/")
    try:
        root = Path(str(resources.files(package)))
        path = (root / file).resolve(strict=True)
    except (ImportError, TypeError, ValueError) as error:
        raise WeightsError(f"the package {package!r} of {location} is missing") from error
    except OSError as error:
        raise MissingFileError(
            f"there is no file {root / file}; install {package} again"
        ) from error
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        raise WeightsError(f"the weights of {name!r}, {location}, are no file in {package}")
    found = file_sha256(path)
    if not found.startswith(sha256.lower()):
        raise WeightsError(
            f"{path} has sha256 {found}, its card says {sha256}; install "
            f"{package.replace('_', '-')} again"
        )
    return path
