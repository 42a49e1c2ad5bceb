#!/bin/sh
# Train a config, with the options of Pointcept's script of this name; further KEY=VALUE go to --options:
#   sh scripts/train.sh -g 1 -d nuscenes -c semseg-pt-v3m1-0-base -n run1 [-w WEIGHT] [-r true] [KEY=VALUE ...]
usage() {
  cat >&2 <<'TEXT'
usage: sh scripts/train.sh -d DATASET -c CONFIG [-n NAME] [-g GPUS] [-w WEIGHT] [-r true] [-p PYTHON] [-m MACHINES] [KEY=VALUE ...]
  -d DATASET   folder of configs/
  -c CONFIG    file of that folder, without .py
  -n NAME      results go to exp/DATASET/NAME (default: debug)
  -g GPUS      of this machine (default: 1)
  -w WEIGHT    weight file to start from
  -r true      go on with exp/DATASET/NAME, with the config of that run; where there is none yet, -c and -w begin it
  -p PYTHON    interpreter (default: python)
  -m MACHINES  (default: 1); each has its number in SLURM_NODEID or MACHINE_RANK, and DIST_URL=tcp://HOST:PORT
TEXT
  exit 2
}

dataset= config= name=debug gpus=1 weight= resume=false python=python machines=1
while getopts p:d:c:n:w:g:m:r: option; do
  case $option in
    p) python=$OPTARG ;;
    d) dataset=$OPTARG ;;
    c) config=${OPTARG%.py} ;;
    n) name=$OPTARG ;;
    w) weight=$OPTARG ;;
    g) gpus=$OPTARG ;;
    m) machines=$OPTARG ;;
    r) resume=$OPTARG ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))

run=exp/$dataset/$name
file=configs/$dataset/$config.py
case $resume in
  true | True)
    if [ -f "$(dirname "$0")/../$run/config.py" ]; then file=$run/config.py; else [ -n "$config" ] || usage; fi ;;
  false | False) [ -n "$config" ] || usage ;;
  *) usage ;;
esac
[ -n "$dataset" ] || usage

cd "$(dirname "$0")/.." || exit
exec "$python" tools/train.py --config "$file" --num-gpus "$gpus" --num-machines "$machines" \
  --machine-rank "${SLURM_NODEID:-${MACHINE_RANK:-0}}" --dist-url "${DIST_URL:-auto}" \
  --options save_path="$run" resume="$resume" ${weight:+"weight=$weight"} "$@"
