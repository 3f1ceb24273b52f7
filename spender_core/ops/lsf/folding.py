"""Spectra that take matrices in turns: how `vmap` over them becomes more rows, and sums of terms.

Shapes: B spectra, L pixels, M matrices, Q = B / M turns, V copies that are mapped over.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def in_turns(y_BL: Tensor, matrices: int) -> Tensor:
    """Return rows in the order in which they take the matrices, shape (Q, M, L)."""
    return y_BL.reshape(len(y_BL) // max(matrices, 1), matrices, y_BL.shape[1])


def fold_parameter(parameter: Tensor, dim: int | None) -> tuple[Tensor, int | None]:
    """Return matrices or widths without the dimension that is mapped over.

    Args:
        parameter: Of each of M matrices, beside the dimension that is mapped over.
        dim: Where it is; None if all copies have the same ones.

    Returns:
        Shape (V M, ...), and how many each copy has, or None if they share them.
    """
    if dim is None:
        return parameter, None
    front = parameter.movedim(dim, 0)
    return front.flatten(0, 1), front.shape[1]


def fold(y: Tensor, dim: int | None, copies: int, own: int | None) -> Tensor:
    """Return spectra of V copies as rows (V B, L) that take their matrices in turns.

    Args:
        y: Spectra (B, L), beside the dimension that is mapped over.
        dim: Where it is; None if all copies have the same ones.
        copies: V.
        own: Number of matrices that each copy has to itself, or None if they share them.
    """
    y_VBL = y.expand(copies, *y.shape) if dim is None else y.movedim(dim, 0)
    if own is None:
        return y_VBL.flatten(0, 1)
    turns = y_VBL.shape[1] // max(own, 1)
    return y_VBL.reshape(copies, turns, own, -1).transpose(0, 1).flatten(0, 2)


def unfold(y_BL: Tensor, copies: int, own: int | None) -> Tensor:
    """Undo `fold`: return shape (V, B, L)."""
    if own is None:
        return y_BL.reshape(copies, len(y_BL) // copies, -1)
    turns = len(y_BL) // max(copies * own, 1)
    return y_BL.reshape(turns, copies, own, -1).transpose(0, 1).flatten(1, 2)


def total(terms: Iterable[Tensor]) -> Tensor | None:
    """Return a sum of terms, or None if there is none."""
    summed = None
    for term in terms:
        summed = term if summed is None else summed + term
    return summed
