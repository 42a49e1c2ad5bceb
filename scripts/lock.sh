#!/usr/bin/env bash
# Pin what a fresh environment gets now in constraints.txt:  bash scripts/lock.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
CONSTRAINTS=/dev/null bash scripts/setup.sh "$python" "$folder/venv"
version=$("$folder/venv/bin/python" -c "import sys; print('%d.%d' % sys.version_info[:2])")
{
  cat <<END
# What CI installs, pinned by scripts/lock.sh; scripts/setup.sh hands it to pip. With other versions of Python than the one
# named below, the bounds of setup.py alone hold. torch and Waymo's message classes have their versions in setup.sh.
END
  "$folder/venv/bin/python" -m pip --disable-pip-version-check freeze --exclude-editable |
    grep -v -e '^torch==' -e '^triton==' -e '^nvidia-' -e '^waymo-open-dataset' | sed "s/\$/ ; python_version == \"$version\"/"
} >"$folder/constraints.txt"
mv "$folder/constraints.txt" constraints.txt
