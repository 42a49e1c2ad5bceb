#!/bin/sh
# Test the weights of a run, with the options of Pointcept's script of this name; further KEY=VALUE go to --options:
#   sh scripts/test.sh -g 1 -d nuscenes -n run1 [-w model_best] [KEY=VALUE ...]
usage() {
  cat >&2 <<'TEXT'
usage: sh scripts/test.sh -d DATASET [-n NAME] [-w WEIGHT] [-c CONFIG] [-g GPUS] [-p PYTHON] [-m MACHINES] [KEY=VALUE ...]
  -d DATASET   folder of exp/
  -n NAME      the run, exp/DATASET/NAME (default: debug)
  -w WEIGHT    file of exp/DATASET/NAME/model, without .pth (default: model_best)
  -c CONFIG    file of configs/DATASET, without .py (default: the config of the run)
  -g GPUS      of this machine (default: 1)
  -p PYTHON    interpreter (default: python)
  -m MACHINES  (default: 1); each has its number in SLURM_NODEID or MACHINE_RANK, and DIST_URL=tcp://HOST:PORT
TEXT
  exit 2
}

dataset= config=None name=debug gpus=1 weight=model_best python=python machines=1
while getopts p:d:c:n:w:g:m: option; do
  case $option in
    p) python=$OPTARG ;;
    d) dataset=$OPTARG ;;
    c) config=${OPTARG%.py} ;;
    n) name=$OPTARG ;;
    w) weight=${OPTARG%.pth} ;;
    g) gpus=$OPTARG ;;
    m) machines=$OPTARG ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
[ -n "$dataset" ] || usage

run=exp/$dataset/$name
file=configs/$dataset/$config.py
[ "$config" = None ] && file=$run/config.py

cd "$(dirname "$0")/.." || exit
exec "$python" tools/test.py --config "$file" --num-gpus "$gpus" --num-machines "$machines" \
  --machine-rank "${SLURM_NODEID:-${MACHINE_RANK:-0}}" --dist-url "${DIST_URL:-auto}" \
  --options save_path="$run" weight="$run/model/$weight.pth" "$@"
