#!/usr/bin/env bash
#SBATCH -A <project>
#SBATCH -p <partition>
#SBATCH -t 04:00:00
#SBATCH --gpus-per-node=A40:1
#SBATCH -J jupyter
#SBATCH -o %x-%j.out            # the address and the token are printed here
#SBATCH --no-requeue            # someone sits before it: start it by hand

# The notebooks, and with them their "training/", lie here. Not in $TMPDIR: what is there ends with
# the job, while the checkpoints are what the next one goes on from.
cd "<project-storage>/notebooks" || exit

ml purge
ml Python/3.12.3-GCCcore-13.3.0 JupyterLab/4.2.5-GCCcore-13.3.0
source "<venv>/bin/activate"

cp "<data>/mnist.npz" "$TMPDIR/"
export KERAS_LC_MNIST="$TMPDIR/mnist.npz"

port=$((20000 + SLURM_JOB_ID % 10000)) # another job on this node has another
cat <<END
On your own computer, run
    ssh -N -L $port:$(hostname):$port <user>@<login-node>
and open the address with 127.0.0.1 below.
END
# From a container: apptainer exec --nv <image>.sif jupyter lab ...
jupyter lab --no-browser --ip="$(hostname)" --port="$port" --port-retries=0
