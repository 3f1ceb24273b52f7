"""The command line, `spender`. Every command imports what it needs when it runs."""

from spender_core.cli.app import app, main

__all__ = ["app", "main"]
