"""Install ``pointcept`` and the kernels in ``libs/pointops`` with it."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "pointcept" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

CONFIGS = [path.relative_to(HERE) for path in sorted((HERE / "configs").rglob("*.py"))]

setup(
    name="pointcept",
    version=VERSION,
    description="Train large LiDAR segmentation networks and distil them into small, fast ones",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10,<3.15",
    packages=[
        *find_packages(include=["pointcept", "pointcept.*"]),
        # configs/ lies beside the package here and in it where it is installed, see pointcept/utils/config_files.py
        *sorted({".".join(("pointcept", *path.parent.parts)) for path in CONFIGS} | {"pointcept.configs"}),
        "pointops",
        "pointcept_runtime",
    ],
    package_dir={
        "pointops": "libs/pointops/pointops",
        "pointcept_runtime": "libs/pointcept_runtime/pointcept_runtime",
        "pointcept.configs": "configs",
    },
    package_data={
        "pointcept.assets": ["*.pth", "*.md"],
        "pointcept.reports": ["web/*"],
        "pointcept.views": ["web/*"],
    },
    entry_points={"console_scripts": ["pointcept = pointcept.cli.door:main"]},
    install_requires=[
        "torch>=2.6",
        "numpy>=1.24",
        "addict>=2.4",
        "yapf>=0.40",
        "tensorboardX>=2.6",
        "tqdm>=4.64",
        # Its wheels are of these; elsewhere it would have to be built, and only H1 and H2 of TopoLoss need it.
        "redzed-tda==0.1.1 ; platform_machine in 'x86_64 AMD64 arm64'",
    ],
    extras_require={
        # preprocessing of the raw data sets; Waymo's message classes need one more command, see docs/datasets.md
        "nuscenes": ["nuscenes-devkit==1.2.0"],
        "waymo": ["protobuf>=4,<8", "google-crc32c>=1.5"],
        # clouds to predict, see docs/predict.md: LAS and LAZ; bags of ROS 2
        "las": ["laspy>=2.5", "lazrs>=0.6"],
        "ros": ["mcap>=1.6"],
        # the street simulator
        "simulator": ["embreex>=4.4"],
        # kernels of other packages behind pointcept.ops; of spconv, install the wheel of the nearest CUDA version
        "spconv": ["spconv-cu126>=2.3.8"],
        **{f"spconv-cu{cuda}": [f"spconv-cu{cuda}>=2.3.6"] for cuda in (118, 120, 121, 124)},
        "spconv-triton": ["spconv-triton>=1.0"],
        "flash-attn": ["flash-attn>=2.5"],
        # tools/export.py; onnxruntime for its --check
        "export": ["onnx>=1.16", "onnxruntime>=1.18", "safetensors>=0.4"],
        # tools/benchmark.py --plot
        "plot": ["matplotlib>=3.7"],
        # scalars for Weights & Biases, see docs/reports.md
        "wandb": ["wandb>=0.16"],
        # pictures and movies of scans, see docs/viewing.md: GIF, MP4, the viewer of Rerun
        "view": ["pillow>=10.1"],
        "video": ["pillow>=10.1", "imageio-ffmpeg>=0.5"],
        "rerun": ["rerun-sdk>=0.23"],
        # further engines and distances of persistence diagrams
        "topology": ["gudhi>=3.10", "scipy>=1.10"],
        # the documentation site
        "docs": ["sphinx>=8.1", "furo>=2024.8", "myst-parser>=4"],
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
            "sphinx>=8.1",
            "furo>=2024.8",
            "myst-parser>=4",
            "pillow>=10.1",
            "laspy>=2.5",
            "lazrs>=0.6",
            "mcap>=1.6",
            "mcap-ros2-support>=0.5",
            "plyfile>=1.0",
            "onnx>=1.16",
            "onnxruntime>=1.18",
            "safetensors>=0.4",
        ],
    },
)
