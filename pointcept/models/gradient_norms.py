"""How strongly each term of a loss pulls at what a network gives, beside the others."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pointcept.models.output import GRADIENT_SCALE


def gradient_norms(terms: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Norms of ∂ term / ∂ place, and their directions against those of the first term.

    Args:
        terms: scalars with a graph, which is kept.
        places: tensors of that graph.

    Returns:
        ``grad/<term>/<place>``: the Euclidean norm over all entries; and, for each but the first term,
        ``grad/<term>/<place>_cos``: the cosine of the angle to the first term's gradient, 0 where one of the two is 0.
        Nothing for a place that a term does not depend on. Nothing waits for the device.
    """
    found: dict[str, Tensor] = {}
    first: dict[str, Tensor] = {}
    for name, term in terms.items():
        if not term.requires_grad:
            continue
        grads = torch.autograd.grad(
            term * GRADIENT_SCALE, list(places.values()), retain_graph=True, allow_unused=True, materialize_grads=False
        )
        for place, grad in zip(places, grads, strict=True):
            if grad is None:
                continue
            grad = (grad if grad.dtype == torch.float64 else grad.float()) / GRADIENT_SCALE
            norm = torch.linalg.vector_norm(grad)
            found[f"grad/{name}/{place}"] = norm
            if name == next(iter(terms)):
                first[place] = grad
            elif place in first:
                # unit vectors: the product of two small norms would underflow
                unit, other = (g / torch.linalg.vector_norm(g).clamp_min(1e-30) for g in (grad, first[place]))
                found[f"grad/{name}/{place}_cos"] = (unit * other).sum()
    return found
