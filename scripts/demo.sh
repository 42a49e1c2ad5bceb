#!/usr/bin/env bash
# Train a small teacher, distil a small student from it, and evaluate the student at full resolution:
#   bash scripts/demo.sh PYTHON [DATA_ROOT] [RESULTS]
# DATA_ROOT holds SemanticKITTI in its official layout. Without one, the real scans of ../shared/data are
# unpacked; where that folder does not exist either, a street is simulated.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
data=${2:-}
results=${3:-exp/demo}
shared=${POINTCEPT_SHARED:-../shared}

run() { echo "\$ $*"; "$@"; }
if [ -z "$data" ]; then
  unpack=$shared/data/unpack_semantic_kitti_mini.py
  if [ -f "$unpack" ]; then
    data=data/semantic_kitti
    [ -d "$data/dataset/sequences/08" ] || run "$python" "$unpack" "$data" --sequences 00 01 08
  else
    data=data/synthetic
    [ -d "$data/dataset/sequences/08" ] ||
      run "$python" tools/generate_synthetic.py --layout semantic_kitti --out "$data" --scenes train=2 val=1 --frames 10
  fi
fi

run "$python" tools/train.py --config configs/semantic_kitti/small_teacher.py \
  --options data_root="$data" save_path="$results/teacher" seed=0
run "$python" tools/train.py --config configs/semantic_kitti/small_distill_kld.py \
  --options data_root="$data" save_path="$results/student" seed=0 \
  model.teacher_weight="$results/teacher/model/model_last.pth"
run "$python" tools/test.py --config configs/semantic_kitti/small_student.py \
  --options data_root="$data" save_path="$results/student" weight="$results/student/model/model_last.pth"
