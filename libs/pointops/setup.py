"""Install the kernels alone: ``pip install ./libs/pointops``."""

from setuptools import setup

setup(
    name="pointops",
    version="0.1.0",
    description="GPU kernels for point clouds, in Triton",
    packages=["pointops"],
    python_requires=">=3.10",
    install_requires=["torch>=2.6"],  # triton comes with the CUDA builds of torch
)
