"""Train a large LiDAR segmentation network and distil it into a small one.

Start here: ``python tools/train.py --config configs/semantic_kitti/teacher.py``.
"""

__version__ = "0.1.0"
