"""Critical edges of Vietoris-Rips persistence in dimension 1 and 2, by an exact engine on the CPU.

The engine gets a detached distance matrix and returns, for each pair (birth simplex, death simplex), the
longest edge of either: birth and death are the lengths of these two edges, which the caller recomputes from
the coordinates with gradient. ``submit_rips`` copies the matrix to pinned memory without blocking and runs the
engine in a thread; the engines release the interpreter lock, so the accelerator and Python go on meanwhile.
"""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from pointcept.utils.errors import did_you_mean

# Dimension -> (K, 4) int64: rows of the matrix that span the birth edge and the death edge.
CriticalEdges = dict[int, np.ndarray]
# More ranks than this are not exact in float32, in which redzed compares.
_EXACT_RANKS = 2**24


def pairwise_distances(x: Tensor) -> Tensor:
    """Exactly symmetric distance matrix (n, n) of ``x`` (n, C), zero diagonal, detached, in the dtype of ``x``.

    Coordinates are subtracted before they are squared (no inner products) and summed in float64, so equal
    distances come out equal and duplicates at distance zero.
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        z = x.detach().to(torch.float64)
        d = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.maximum(d, d.T).fill_diagonal_(0).to(x.dtype)


def _import_engine(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this persistence engine needs the package {package!r}: pip install {package}, or all that"
            " pointcept.topology can use: pip install 'pointcept[topology]'"
        ) from error


def _longest_edges(matrix: np.ndarray, simplices: list[list[int]]) -> np.ndarray:
    """The longest edge (K, 2) of each simplex (K lists of equal length)."""
    vertices = np.asarray(simplices, dtype=np.int64)
    pairs = np.array(list(itertools.combinations(range(vertices.shape[1]), 2)))
    u, v = vertices[:, pairs[:, 0]], vertices[:, pairs[:, 1]]
    longest = matrix[u, v].argmax(axis=1)[:, None]
    return np.concatenate([np.take_along_axis(u, longest, 1), np.take_along_axis(v, longest, 1)], axis=1)


def _exact_in_float32(matrix: np.ndarray) -> np.ndarray:
    """A matrix with the order and the ties of ``matrix`` whose entries float32 can hold: dense ranks."""
    n = len(matrix)
    if matrix.dtype == np.float32 or n * (n - 1) // 2 >= _EXACT_RANKS:
        return matrix
    lower = np.tril_indices(n, -1)
    _, rank = np.unique(matrix[lower], return_inverse=True)
    ranks = np.zeros((n, n))
    ranks[lower] = rank + 1.0
    return np.maximum(ranks, ranks.T)


def _redzed(matrix: np.ndarray, max_dim: int) -> CriticalEdges:
    """RedZeD (Kapulkin and Kershaw, arXiv 2606.06310), package ``redzed-tda``."""
    redzed = _import_engine("redzed_tda", "redzed-tda")
    ordered = _exact_in_float32(matrix)
    _, simplices = redzed.rips(ordered, maxdim=max_dim, simplex_pairs=True)
    edges = {}
    for dim in range(1, max_dim + 1):
        pairs = [pair for pair in simplices[dim] if pair[1]]
        if pairs:
            ends = [_longest_edges(ordered, [list(pair[side]) for pair in pairs]) for side in (0, 1)]
            edges[dim] = np.concatenate(ends, axis=1)
    return edges


def _gudhi(matrix: np.ndarray, max_dim: int) -> CriticalEdges:
    """The whole flag complex in a GUDHI simplex tree: a second opinion, seconds beyond 250 points."""
    gudhi = _import_engine("gudhi", "gudhi")
    tree = gudhi.RipsComplex(distance_matrix=matrix).create_simplex_tree(max_dimension=max_dim + 1)
    tree.compute_persistence()
    higher = tree.flag_persistence_generators()[1]
    return {dim: np.asarray(e, dtype=np.int64) for dim, e in enumerate(higher, start=1) if len(e) and dim <= max_dim}


ENGINES: dict[str, Callable[[np.ndarray, int], CriticalEdges]] = {"redzed": _redzed, "gudhi": _gudhi}


def critical_edges(matrix: np.ndarray, max_dim: int = 1, engine: str = "redzed") -> CriticalEdges:
    """Birth and death edges of every H1 (and H2 with ``max_dim=2``) class of a distance matrix.

    Args:
        matrix: (n, n) float32 or float64, symmetric, finite.
        max_dim: highest homology dimension, 1 or more.
        engine: a key of ``ENGINES``.

    Returns:
        dimension -> (K, 4) int64. Pairs that die within four roundings of their birth are left out: in that
        precision they cannot be told from ties.

    Raises:
        ValueError: for an unknown engine.
        ImportError: if its package is missing.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown persistence engine {engine!r}; {did_you_mean(engine, ENGINES)}")
    found = ENGINES[engine](matrix, max_dim) if len(matrix) > 2 else {}
    result = {}
    for dim in range(1, max_dim + 1):
        edges = found.get(dim, np.empty((0, 4), dtype=np.int64))
        birth, death = matrix[edges[:, 0], edges[:, 1]], matrix[edges[:, 2], edges[:, 3]]
        result[dim] = edges[death - birth > 4 * np.finfo(matrix.dtype).eps * death]
    return result


@lru_cache(maxsize=1)
def _workers() -> ThreadPoolExecutor:
    """Threads shared by all jobs: teacher and student of a step run side by side."""
    return ThreadPoolExecutor(max_workers=4, thread_name_prefix="persistence")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork: a child must start its own
    os.register_at_fork(after_in_child=_workers.cache_clear)


def _work(host: Tensor, copied: torch.Event | None, max_dim: int, engine: str) -> CriticalEdges:
    if copied is not None:
        copied.synchronize()
    return critical_edges(host.numpy(), max_dim, engine)


def submit_rips(matrix: Tensor, max_dim: int = 1, engine: str = "redzed") -> Future[CriticalEdges]:
    """Start :func:`critical_edges` on ``matrix`` (n, n) in a thread; ``.result()`` waits and raises its errors.

    A matrix on an accelerator is copied to pinned host memory without blocking the calling thread.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown persistence engine {engine!r}; {did_you_mean(engine, ENGINES)}")
    matrix = matrix.detach()
    if matrix.device.type == "cpu" or not hasattr(torch, "Event"):  # torch 2.4 has no device-neutral event
        return _workers().submit(_work, matrix.cpu(), None, max_dim, engine)
    host = torch.empty(matrix.shape, dtype=matrix.dtype, pin_memory=True).copy_(matrix, non_blocking=True)
    copied = torch.Event(device=matrix.device)
    copied.record()
    return _workers().submit(_work, host, copied, max_dim, engine)
