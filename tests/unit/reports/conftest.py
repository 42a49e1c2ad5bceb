"""The runs that the tests report on are made by ``folders.py``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
