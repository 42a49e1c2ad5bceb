#!/usr/bin/env bash
# Train a small teacher, distil a small student from it with every loss, and compare both at full point resolution:
#   bash scripts/demo.sh PYTHON [DATA_ROOT] [RESULTS]
# DATA_ROOT holds SemanticKITTI in its official layout (sequences 00 and 01 train, 08 judges). Without one, a street
# is simulated.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
data=${2:-}
results=${3:-exp/demo/$(date +%Y-%m-%d_%H%M%S)} # a demo shows it from the beginning, and replaces none
# Threads that spin while they wait slow each other down where other programs run too; large tensors use huge pages.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} THP_MEM_ALLOC_ENABLE=${THP_MEM_ALLOC_ENABLE:-1}

run() { echo "\$ $*"; "$@"; }
configs=configs/semantic_kitti
if [ -z "$data" ]; then
  configs=configs/synthetic
  data=data/demo
  run "$python" tools/generate_synthetic.py --out "$data" --scenes train=2 val=1 --frames 10 --resume
fi

# Both trainings end with the precise evaluation that tools/test.py does; the quick one in between is left out.
options=(data_root="$data" seed=0 evaluate=False batch_size=1 train.max_iter=160)
run "$python" tools/train.py --config "$configs/small_teacher.py" --options "${options[@]}" save_path="$results/teacher"
run "$python" tools/train.py --config "$configs/small_distill_full.py" --options "${options[@]}" \
  save_path="$results/student" model.teacher_weight="$results/teacher/model/model_last.pth"
run "$python" tools/compare.py teacher="$results/teacher" student="$results/student"
