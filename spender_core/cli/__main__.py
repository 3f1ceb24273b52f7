"""`python -m spender_core.cli`."""

from spender_core.cli.app import main

main()
