#!/usr/bin/env bash
# Train a small teacher, distil a small student from it, and evaluate the student at full resolution:
#   bash scripts/demo.sh PYTHON [DATA_ROOT] [RESULTS]
# DATA_ROOT holds SemanticKITTI in its official layout. Without one, the real scans of ../shared/data are
# unpacked, where that folder exists.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
data=${2:-}
results=${3:-exp/demo}
shared=${POINTCEPT_SHARED:-../shared}

if [ -z "$data" ]; then
  data=data/semantic_kitti
  if [ ! -d "$data/dataset/sequences/08" ]; then
    unpack=$shared/data/unpack_semantic_kitti_mini.py
    if [ ! -f "$unpack" ]; then
      echo "error: no scans at $data and none to unpack at $shared/data; give the path of SemanticKITTI-format data: make demo DATA=PATH" >&2
      exit 2
    fi
    "$python" "$unpack" "$data" --sequences 00 01 08
  fi
fi

run() { echo "\$ $*"; "$@"; }
run "$python" tools/train.py --config configs/semantic_kitti/small_teacher.py \
  --options data_root="$data" save_path="$results/teacher" seed=0
run "$python" tools/train.py --config configs/semantic_kitti/small_distill_kld.py \
  --options data_root="$data" save_path="$results/student" seed=0 \
  model.teacher_weight="$results/teacher/model/model_last.pth"
run "$python" tools/test.py --config configs/semantic_kitti/small_student.py \
  --options data_root="$data" save_path="$results/student" weight="$results/student/model/model_last.pth"
