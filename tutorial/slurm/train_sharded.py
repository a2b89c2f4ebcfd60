"""One rank of a training of PyTorch that is sharded over the nodes of a job, with FSDP2.

    srun python train_sharded.py DIRECTORY [--steps 2000] [--every 100] [--pause 0]

Each rank writes its own part of a checkpoint through `torch.distributed.checkpoint`. After a
restart, all go on from the newest one that is complete, on as many ranks as there are then. Exit
codes: 0 when all steps are done, 75 when SIGUSR1 or SIGTERM asked for a stop before.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from keras_lc.torch.distributed import LCStorageReader, LCStorageWriter

TRY_AGAIN = 75


def meet():
    """Join the other ranks: SLURM tells who one is, the job script where to meet."""
    rank, ranks = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    backend, device = "gloo", torch.device("cpu")
    if torch.cuda.is_available():
        backend, device = "nccl", torch.device("cuda", int(os.environ["SLURM_LOCALID"]))
        torch.cuda.set_device(device)
    distributed.init_process_group(backend, rank=rank, world_size=ranks)
    return rank, ranks, device


def build(device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)).to(device)
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def restore(directory, model, optimizer):
    """Steps that the newest checkpoint has; its JSON file is written when all ranks have done."""
    newest = max(Path(directory).glob("cp-*.json"), default=None)
    if newest is None:
        return 0
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optim": moments, "step": 0}
    dcp.load(state, storage_reader=LCStorageReader(newest.with_suffix("")))
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"]
    )
    return state["step"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=100, help="steps from save to save")
    parser.add_argument("--pause", type=float, default=0.0, help="s after each step, to watch it")
    told = parser.parse_args()

    signals = []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda received, frame: signals.append(received))
    rank, ranks, device = meet()
    model, optimizer = build(device)
    writer = LCStorageWriter(told.directory, codec="lossless")
    begin = restore(told.directory, model, optimizer)
    attempt = os.environ.get("SLURM_RESTART_COUNT", "0")
    if rank == 0:
        print(f"attempt {attempt} begins at step {begin} on {ranks} ranks", flush=True)
    stopped = False
    for step in range(begin + 1, told.steps + 1):
        batch = torch.Generator().manual_seed(step * ranks + rank)  # the same after a restart
        x = torch.randn(32, 64, generator=batch).to(device)
        loss = (model(x) - x.roll(1, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(told.pause)
        asked = torch.tensor(float(bool(signals)), device=device)
        distributed.all_reduce(asked)  # a signal reaches the ranks at different steps
        stopped = bool(asked) and step < told.steps
        if stopped or step % told.every == 0 or step == told.steps:
            weights, moments = get_state_dict(model, optimizer)
            state = {"model": weights, "optim": moments, "step": step}
            dcp.save(state, storage_writer=writer, checkpoint_id=f"cp-{step:06d}")
        if stopped:
            break
    if rank == 0:
        word = "stopped" if stopped else "done"
        print(f"attempt {attempt} {word} at step {step}, loss {loss.item():.4f}", flush=True)
    distributed.destroy_process_group()
    sys.exit(TRY_AGAIN if stopped else 0)


if __name__ == "__main__":
    main()
