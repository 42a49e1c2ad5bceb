"""Persistent homology of feature clouds with gradient, and distances between persistence diagrams.

    teacher = submit_persistence(normalise(t), max_points=256)            # H1 runs in a thread
    student = submit_persistence(normalise(s), max_points=256, index=teacher.index)
    terms = diagram_distance(teacher.result().detach(), student.result(), kind="chamfer")

Pure mathematics on tensors: no registry, no global random state, the same code on CPU and accelerator.
"""

from pointcept.topology.diagrams import Diagram
from pointcept.topology.distances import chamfer, diagram_distance, sliced_wasserstein, wasserstein
from pointcept.topology.mst import edge_lengths, minimum_spanning_tree
from pointcept.topology.normalise import normalise, rms_scale
from pointcept.topology.persistence import (
    PendingDiagram,
    batch_persistence,
    persistence,
    split_clouds,
    submit_batch_persistence,
    submit_persistence,
)
from pointcept.topology.published import published_diagram, published_distance
from pointcept.topology.rips import critical_edges, pairwise_distances, submit_rips
from pointcept.topology.rtd import rtd_lite
from pointcept.topology.subsample import farthest_points, random_points, subsample_rows

__all__ = [
    "Diagram",
    "PendingDiagram",
    "batch_persistence",
    "chamfer",
    "critical_edges",
    "diagram_distance",
    "edge_lengths",
    "farthest_points",
    "minimum_spanning_tree",
    "normalise",
    "pairwise_distances",
    "persistence",
    "published_diagram",
    "published_distance",
    "random_points",
    "rms_scale",
    "rtd_lite",
    "sliced_wasserstein",
    "split_clouds",
    "submit_batch_persistence",
    "submit_persistence",
    "submit_rips",
    "subsample_rows",
    "wasserstein",
]
