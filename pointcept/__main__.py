"""``python -m pointcept`` is the program ``pointcept``."""

import sys

from pointcept.cli.door import main

if __name__ == "__main__":
    sys.exit(main())
