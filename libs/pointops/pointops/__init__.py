"""GPU kernels for point clouds, in Triton; no policy: pointcept.ops decides when they run."""

__version__ = "0.1.0"
