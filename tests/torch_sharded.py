"""One rank of a training with FSDP2: `torch_sharded.py ACTION DIRECTORY NAME`.

`save` trains and saves, and prints a digest of the whole state at each save; `load` loads one
checkpoint into other values and prints the digest.
"""

import hashlib
import os
import sys

import torch
from torch import distributed, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from keras_lc.torch.distributed import LCStorageReader, LCStorageWriter


def build(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(7, 30), nn.ReLU(), nn.Linear(30, 5))
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 7)).square().sum().backward()
        optimizer.step()


def state_of(model, optimizer):
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optim": moments, "told": {"epoch": 2, "rates": [0.5, None]}}


def digest(value):
    found = hashlib.sha256()

    def add(key, item):
        if isinstance(item, dict):
            for name in sorted(item):
                add(f"{key}/{name}", item[name])
        elif isinstance(item, torch.Tensor):
            whole = item.full_tensor() if isinstance(item, DTensor) else item
            found.update(f"{key} {whole.dtype}".encode() + whole.numpy().tobytes())
        else:
            found.update(f"{key} {item}".encode())

    add("", value)
    return found.hexdigest()


def main(action, directory, name):
    distributed.init_process_group("gloo", init_method=os.environ["MEETING"],
                                   rank=int(os.environ["RANK"]),
                                   world_size=int(os.environ["WORLD_SIZE"]))  # fmt: skip
    model, optimizer = build(seed=1 if action == "save" else 2)
    if action == "save":
        writer = LCStorageWriter(directory, codec="lossless")
        for number in range(1, 4):
            train(model, optimizer, 2)
            state = state_of(model, optimizer)
            dcp.save(state, storage_writer=writer, checkpoint_id=f"cp-{number}")
            print(digest(state), flush=True)
    else:
        state = state_of(model, optimizer)
        state["told"] = {"epoch": 0, "rates": []}
        dcp.load(state, storage_reader=LCStorageReader(f"{directory}/{name}"))
        set_state_dict(
            model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"]
        )
        print(digest({**state_of(model, optimizer), "told": state["told"]}), flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
