#!/bin/sh
# Train or test on the machines of a SLURM job; one task for each GPU, which find each other by SLURM's variables:
#   sbatch --nodes 2 --gpus-per-node 4 scripts/slurm.sh --config configs/nuscenes/teacher.py --options save_path=exp/run
#   TOOL=test sbatch --gpus-per-node 1 scripts/slurm.sh --config ... --options weight=...
# A job that is stopped before its end saves, is queued once more (exit code 75), and goes on: resume=True is added.
# TOOL is the file of tools/ (train), PYTHON the interpreter (python), TASKS the processes of a machine (its GPUs, or 1).
#SBATCH --job-name=pointcept
#SBATCH --nodes=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120

usage() {
  sed -n '2,6s/^# //p' "$0" >&2
  exit 2
}
[ $# -gt 0 ] || usage

tool=${TOOL:-train}
tasks=${TASKS:-${SLURM_GPUS_ON_NODE:-1}}
cd "${SLURM_SUBMIT_DIR:-.}" || exit
if [ ! -f "tools/$tool.py" ]; then
  echo "error: $(pwd) has no tools/$tool.py: submit from the repository, with TOOL=train or TOOL=test" >&2
  exit 2
fi

[ "$tool" = train ] && set -- "$@" --options resume=True
# The shell outlives the signals that SLURM sends to the whole job: the tasks save, and srun ends with them.
trap : TERM INT USR1
# No --kill-on-bad-exit: when a task fails the others end by themselves, and one may still be saving.
srun --nodes "${SLURM_NNODES:-1}" --ntasks-per-node "$tasks" --wait=60 "${PYTHON:-python}" "tools/$tool.py" "$@"
code=$?
if [ $code -eq 75 ] && [ -n "$SLURM_JOB_ID" ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $code
