"""Losses by which models are trained and judged, as pure functions on tensors.

`fidelity` compares models with data. `similarity`, `similarity_restframe` and `consistency`
shape the latents; they are raw: a training script weighs them against the fidelity (spender 0.3
takes 3 for either similarity, 1 for the consistency).
"""

from spender_core.losses.chi2 import fidelity, reduced_chi2
from spender_core.losses.restframe import restframe_weight, to_restframe
from spender_core.losses.similarity import (
    Consistency,
    RestframePixels,
    Similarity,
    SimilarityConfig,
    consistency,
    similarity,
    similarity_restframe,
)

__all__ = [
    "Consistency",
    "RestframePixels",
    "Similarity",
    "SimilarityConfig",
    "consistency",
    "fidelity",
    "reduced_chi2",
    "restframe_weight",
    "similarity",
    "similarity_restframe",
    "to_restframe",
]
