"""A model that is sharded over two processes with FSDP2, killed, and resumed by three.

    python examples/torch_fsdp.py

Each rank writes its own shards: a base, then deltas. After the third checkpoint both processes are
killed; three go on from it, as another number of ranks may.
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from keras_lc import list_checkpoints
from keras_lc.torch.distributed import LCStorageReader, LCStorageWriter

EPOCHS, STEPS = 6, 20


def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def newest(directory):
    """The last checkpoint that is complete: its JSON is written when all ranks have done."""
    return max(directory.glob("cp-*.json"), default=None)


def train(rank, ranks, directory):
    meeting = directory / f"meeting-of-{ranks}"
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=ranks)
    model, optimizer = build()
    begin, path = 0, newest(directory)
    if path is not None:
        weights, moments = get_state_dict(model, optimizer)
        state = {"model": weights, "optim": moments, "epoch": 0}
        dcp.load(state, storage_reader=LCStorageReader(path.with_suffix("")))
        set_state_dict(
            model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"]
        )
        begin = state["epoch"]
    if rank == 0:
        print(f"{ranks} ranks train from epoch {begin}", flush=True)
    writer = LCStorageWriter(directory)
    for epoch in range(begin, EPOCHS):
        for _ in range(STEPS):
            x = torch.randn(32, 64)
            loss = (model(x) - x.roll(1, 1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        weights, moments = get_state_dict(model, optimizer)
        state = {"model": weights, "optim": moments, "epoch": epoch + 1}
        dcp.save(state, storage_writer=writer, checkpoint_id=f"cp-{epoch + 1:04d}")
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    distributed.destroy_process_group()


def main():
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        started = multiprocessing.spawn(train, (2, directory), nprocs=2, join=False)
        while newest(directory) is None or newest(directory).stem < "cp-0003":
            if started.join(timeout=0.05):
                sys.exit("the training ended before it could be killed")
        for process in started.processes:
            process.kill()
            process.join()
        print("both are killed")
        multiprocessing.spawn(train, (3, directory), nprocs=3)
        for part in sorted(directory.glob("*-of-0*")):
            sizes = [f"{one.kind} {one.nbytes:,}" for one in list_checkpoints(part)]
            print(f"{part.name}: {', '.join(sizes)} bytes")


if __name__ == "__main__":
    main()
