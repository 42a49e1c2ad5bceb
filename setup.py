"""Install ``pointcept`` and the kernels in ``libs/pointops`` with it."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "pointcept" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="pointcept",
    version=VERSION,
    description="Train large LiDAR segmentation networks and distil them into small, fast ones",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10,<3.13",
    packages=[*find_packages(include=["pointcept", "pointcept.*"]), "pointops"],
    package_dir={"pointops": "libs/pointops/pointops"},
    install_requires=[
        "torch>=2.6",
        "numpy>=1.24",
        "addict>=2.4",
        "yapf>=0.40",
        "tensorboardX>=2.6",
        "tqdm>=4.64",
        "redzed-tda==0.1.1",
    ],
    extras_require={
        # preprocessing of the raw data sets; Waymo's message classes need one more command, see docs/datasets.md
        "nuscenes": ["nuscenes-devkit==1.2.0"],
        "waymo": ["protobuf>=4,<8", "google-crc32c>=1.5"],
        # the street simulator
        "simulator": ["embreex>=4.4"],
        # kernels of other packages behind pointcept.ops; of spconv, install the wheel of the nearest CUDA version
        "spconv": ["spconv-cu126>=2.3.8"],
        **{f"spconv-cu{cuda}": [f"spconv-cu{cuda}>=2.3.6"] for cuda in (118, 120, 121, 124)},
        "spconv-triton": ["spconv-triton>=1.0"],
        "flash-attn": ["flash-attn>=2.5"],
        # tools/benchmark.py --plot
        "plot": ["matplotlib>=3.7"],
        # further engines and distances of persistence diagrams
        "topology": ["gudhi>=3.10", "scipy>=1.10"],
        # mutants of the modules whose numbers users trust, see docs/reliability.md
        "mutants": ["mutmut>=3.8"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "ruff==0.17.6",
            "mypy==2.4.1",
            "gudhi>=3.10",
            "scipy>=1.10",
            "protobuf>=4,<8",
            "google-crc32c>=1.5",
            "embreex>=4.4",
            "matplotlib>=3.7",
        ],
    },
)
