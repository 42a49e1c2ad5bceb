"""Install the runtime alone: ``pip install ./libs/pointcept_runtime``."""

from setuptools import setup

setup(
    name="pointcept-runtime",
    version="0.1.0",
    description="Label LiDAR scans with an exported student, on NumPy and ONNX Runtime",
    license="MIT",
    packages=["pointcept_runtime"],
    python_requires=">=3.10",
    install_requires=["numpy>=1.24", "onnxruntime>=1.18"],
    entry_points={"console_scripts": ["pointcept-runtime = pointcept_runtime.command:run"]},
)
