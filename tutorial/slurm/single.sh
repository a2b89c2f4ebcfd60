#!/usr/bin/env bash
#SBATCH -A <project>            # find your project with the "projinfo" command
#SBATCH -p <partition>
#SBATCH -t 01:00:00             # the training may take longer: the job is requeued at its limit
#SBATCH --gpus-per-node=A40:1   # "sinfo -o %G" lists what there is
#SBATCH -J keras-training
#SBATCH -o %x-%j.out
#SBATCH --open-mode=append      # a restart adds to the log
#SBATCH --requeue               # start again after a preemption or the failure of a node
#SBATCH --signal=USR1@120       # two minutes before the limit, to what srun started (no "B:")

# Checkpoints belong where they outlive the job: $TMPDIR is deleted with it, the home directory is
# small. Scratch is purged of old files; project storage has quotas of bytes and of inodes, that is
# files: "keras-lc pack" makes one file of all deltas. The name must be the same in each restart.
checkpoints="<project-storage>/keras-training"

# Software: keras_lc needs Keras 3.13 or later, newer than the modules of many clusters. A virtual
# environment over their Python brings it. Once, to set it up:
#   ml purge && ml Python/3.12.3-GCCcore-13.3.0
#   python -m venv <venv>
#   <venv>/bin/pip install "keras-lc[tensorflow]" "tensorflow[and-cuda]"
ml purge
ml Python/3.12.3-GCCcore-13.3.0
source "<venv>/bin/activate"
# Or on PyTorch's module, in an environment made with "python -m venv --system-site-packages <venv>":
#   ml PyTorch/2.9.1-foss-2024a-CUDA-12.6.0
#   export KERAS_BACKEND=torch
# Or from a container (one file, where an environment has thousands): instead of "srun python" below
#   srun apptainer exec --nv <image>.sif python

# Data are read many times: copy them to the local disk, in few large files
# (of many small ones make an archive, and unpack it there: tar -xf data.tar -C "$TMPDIR").
cp "<data>/mnist.npz" "$TMPDIR/"
export KERAS_LC_MNIST="$TMPDIR/mnist.npz"

# Not "exec python": without srun, the signal of --signal=USR1@120 reaches nothing.
srun python train.py "$checkpoints" --epochs 128
code=$?

# 75: a signal stopped the training, and its state is saved. 138 and 143: USR1 or TERM came before
# training had begun. SLURM takes all of these for a failure, and would not start the job again.
case $code in
  75 | 138 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$code"
