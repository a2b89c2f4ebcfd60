#!/usr/bin/env bash
#SBATCH -A <project>
#SBATCH -p <partition>
#SBATCH -t 01:00:00
#SBATCH --gpus-per-node=A40:1
#SBATCH -J rates
#SBATCH -o %x-%A_%a.out         # a log for each task
#SBATCH --array=0-3%2           # four tasks, two of them at a time
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@120

# Each task trains with another rate, and has a directory of its own: one process at a time saves
# into a directory. It is named after the rate, not after the job, so that a job that is submitted
# again goes on as well.
rates=(0.01 0.003 0.001 0.0003)
rate=${rates[$SLURM_ARRAY_TASK_ID]}
checkpoints="<project-storage>/rates/$rate"

ml purge
ml Python/3.12.3-GCCcore-13.3.0
source "<venv>/bin/activate"

cp "<data>/mnist.npz" "$TMPDIR/"
export KERAS_LC_MNIST="$TMPDIR/mnist.npz"

srun python train.py "$checkpoints" --epochs 128 --rate "$rate"
# Or: srun apptainer exec --nv <image>.sif python train.py ...
code=$?

# The tasks have a SLURM_JOB_ID each: one that is stopped is requeued alone.
case $code in
  75 | 138 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$code"
