"""Sparse convolution, patch attention, serialization, segment reductions and neighbour maps."""
