"""Files of archives: opened through fsspec, wherever they are."""
