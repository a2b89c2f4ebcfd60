#!/usr/bin/env bash
#SBATCH -A <project>
#SBATCH -p <partition>
#SBATCH -t 01:00:00
#SBATCH --nodes=2
#SBATCH --gpus-per-node=A40:1
#SBATCH --ntasks-per-node=1     # a rank for each GPU
#SBATCH -J sharded
#SBATCH -o %x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@120

# All ranks write here, each into a directory of its own: it must be seen by all nodes.
checkpoints="<project-storage>/sharded"

ml purge
ml PyTorch/2.9.1-foss-2024a-CUDA-12.6.0
source "<venv>/bin/activate" # python -m venv --system-site-packages <venv>; pip install keras-lc

# Where the ranks meet: this script runs on the first node, as does rank 0.
MASTER_ADDR=$(hostname)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000)) # two jobs may share a node
OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} # ranks of one node share its processors
export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS

# Not torchrun: srun starts the ranks itself, and no process between them and SLURM is ended by a
# signal. A rank that fails ends the others, which would wait for it until the limit.
srun --kill-on-bad-exit=1 python train_sharded.py "$checkpoints"
# Or: srun apptainer exec --nv <image>.sif python train_sharded.py "$checkpoints"
code=$?

case $code in
  75 | 138 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$code"
