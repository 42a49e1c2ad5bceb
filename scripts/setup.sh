#!/usr/bin/env bash
# Build a virtual environment with pointcept in it:  bash scripts/setup.sh [PYTHON] [FOLDER]
# A machine without an NVIDIA driver gets the CPU build of torch, which is 5 GB smaller.
# Packages have the versions of constraints.txt, or of the file that CONSTRAINTS names; bash scripts/lock.sh renews it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
venv=${2:-.venv}
torch_cpu=2.13.0+cpu

"$python" - <<'PY'
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit(f"error: pointcept needs Python 3.10 to 3.12, got {sys.version.split()[0]}; name another: make PYTHON=python3.12 ...")
PY
"$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
if ! "$venv/bin/python" -c "import torch" 2>/dev/null; then
  if nvidia-smi >/dev/null 2>&1; then
    "${pip[@]}" install -q torch
  else
    "${pip[@]}" install -q "torch==$torch_cpu" 2>/dev/null ||
      "${pip[@]}" install -q "torch==$torch_cpu" --index-url https://download.pytorch.org/whl/cpu
  fi
fi
"${pip[@]}" install -q -c "${CONSTRAINTS:-constraints.txt}" -e ".[dev]"
# Waymo's message classes; the wheel names TensorFlow as a dependency, which they do not need.
if [ "$(uname -sm)" = "Linux x86_64" ]; then
  "${pip[@]}" install -q --no-deps waymo-open-dataset-tf-2-12-0==1.6.7
fi
"$venv/bin/python" -c "import pointcept, torch; print(f'pointcept {pointcept.__version__} with torch {torch.__version__} is ready in $venv')"
