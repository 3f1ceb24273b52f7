"""What a failed check says: what was expected, what was found, and how to fix it."""

from __future__ import annotations


class ContractError(AssertionError):
    """A plugin breaks a rule.

    Attributes:
        expected: what must hold.
        found: what holds instead.
        fix: what to change in the plugin.
    """

    def __init__(self, expected: str, found: str, fix: str) -> None:
        """Take the three texts, without their labels."""
        super().__init__(f"expected: {expected}\nfound: {found}\nto fix: {fix}")
        self.expected, self.found, self.fix = expected, found, fix

    def __reduce__(self) -> tuple[type[ContractError], tuple[str, str, str]]:
        """Let the error come back from another process."""
        return type(self), (self.expected, self.found, self.fix)


class NotApplicable(Exception):  # noqa: N818, as it is no error
    """A check has nothing to look at; its text says what is lacking."""


def expect(condition: object, *, expected: str, found: str, fix: str) -> None:
    """Raise `ContractError` unless the condition holds."""
    if not condition:
        raise ContractError(expected, found, fix)
