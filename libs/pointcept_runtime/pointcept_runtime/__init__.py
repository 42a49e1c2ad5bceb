"""Label LiDAR scans with an exported student: NumPy and ONNX Runtime, no torch.

from pointcept_runtime import load

student = load("student/")
labels = student.label(points)      # (N, 4) x, y, z [m], strength -> (N,) int64 classes
"""

from pointcept_runtime.card import Card, read_card
from pointcept_runtime.errors import ExportError, ScanError
from pointcept_runtime.student import Student, load

__all__ = ["Card", "ExportError", "ScanError", "Student", "load", "read_card"]
__version__ = "0.1.0"
