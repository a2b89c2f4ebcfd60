"""What a checkpoint of PyTorch costs: time that it blocks, bytes, time to restore.

    python tests/benchmarks/torch_saving.py

One model of linear layers with AdamW (158 MB of weights and moments) is trained on; every few
steps each way of saving saves the same state, in turn, in one process, no other save in flight.
Medians over the rounds, the first one left out; bytes are those that a save adds to its directory
once it is complete. Restored is the last state, into new objects. Peers that are not installed
(safetensors, moonclip) are left out.

The load average is printed with the table: on a machine that is shared, look at it first.
"""

import argparse
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn

from keras_lc.torch import Checkpointer

CODECS = ("balanced", "fast", "lossless")


def build(layers):
    torch.manual_seed(0)
    hidden = [part for _ in range(layers) for part in (nn.Linear(1024, 1024), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(1024, 560))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-4)


def train(model, optimizer, steps):
    for _ in range(steps):
        x = torch.randn(16, 1024)
        optimizer.zero_grad()
        (model(x) - x[:, :560].tanh()).square().mean().backward()
        optimizer.step()


def tensors_of(model, optimizer):
    """Every tensor of the state by name."""
    found = {f"model/{key}": tensor for key, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        found |= {f"optimizer/{number}/{key}": tensor for key, tensor in state.items()}
    return found


class Copy:
    """A plain copy into arrays that are there, by one thread."""

    title = "plain copy"

    def __init__(self, directory):
        self.copies = None

    def save(self, model, optimizer, step):
        views = {name: tensor.numpy() for name, tensor in tensors_of(model, optimizer).items()}
        if self.copies is None:
            self.copies = {name: view.copy() for name, view in views.items()}
        for name, view in views.items():
            np.copyto(self.copies[name], view)

    def finish(self):
        pass

    restore = None


class Ours:
    """keras_lc.torch, with its defaults."""

    def __init__(self, directory, codec):
        self.title = f'keras_lc "{codec}"'
        self.directory, self.codec = directory, codec
        self.checkpointer = Checkpointer(directory, codec=codec)

    def save(self, model, optimizer, step):
        self.checkpointer.save(model, optimizer, epoch=0, step=step)

    def finish(self):
        self.checkpointer.wait()

    def restore(self, model, optimizer):
        Checkpointer(self.directory).restore_latest(model, optimizer)


class TorchSave:
    """torch.save, as its tutorials do."""

    title = "torch.save"

    def __init__(self, directory):
        self.directory = directory

    def save(self, model, optimizer, step):
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(content, self.directory / f"{step:06d}.pt")

    def finish(self):
        pass

    def restore(self, model, optimizer):
        content = torch.load(max(self.directory.iterdir()), weights_only=True)
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])


class SafeTensors:
    """safetensors, which knows tensors alone: the groups of the optimizer are not in it."""

    title = "safetensors"

    def __init__(self, directory):
        self.directory = directory

    def save(self, model, optimizer, step):
        save_file(tensors_of(model, optimizer), self.directory / f"{step:06d}.safetensors")

    def finish(self):
        pass

    def restore(self, model, optimizer):
        found = load_file(max(self.directory.iterdir()))
        model.load_state_dict(
            {name[6:]: tensor for name, tensor in found.items() if name.startswith("model/")}
        )
        held = optimizer.state_dict()
        for name, tensor in found.items():
            if name.startswith("optimizer/"):
                _, number, key = name.split("/")
                held["state"].setdefault(int(number), {})[key] = tensor
        optimizer.load_state_dict(held)


class Moonclip:
    """moonclip, with its defaults: deltas by exclusive or, compressed by zstd."""

    title = "moonclip"

    def __init__(self, directory):
        self.directory = directory
        self.manager = CheckpointManager(str(directory))

    def save(self, model, optimizer, step):
        self.manager.save(step=step, model=model, optimizer=optimizer)

    def finish(self):
        self.manager.flush()

    def restore(self, model, optimizer):
        CheckpointManager(str(self.directory)).load_latest(model=model, optimizer=optimizer)


PEERS = [TorchSave]
with suppress(ImportError):
    from safetensors.torch import load_file, save_file

    PEERS.append(SafeTensors)
with suppress(ImportError):
    from moonclip import CheckpointManager

    PEERS.append(Moonclip)


def taken(directory):
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def clocked(work, *arguments):
    begin = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begin


def far(live, restored):
    """The largest difference of a weight, as a share of the root mean square of its tensor."""
    pairs = zip(live.parameters(), restored.parameters(), strict=True)
    with torch.no_grad():
        return max(float((a - b).abs().max() / a.square().mean().sqrt()) for a, b in pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=12, help="of 1024 x 1024")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="from one save to the next")
    parser.add_argument("--before", type=int, default=200, help="steps before the first save")
    options = parser.parse_args()
    model, optimizer = build(options.layers)
    train(model, optimizer, options.before)
    size = sum(tensor.nbytes for tensor in tensors_of(model, optimizer).values())
    with tempfile.TemporaryDirectory() as scratch:
        directories = [Path(scratch) / str(i) for i in range(1 + len(CODECS) + len(PEERS))]
        for directory in directories:
            directory.mkdir()
        makers = [Copy, *(lambda at, codec=codec: Ours(at, codec) for codec in CODECS), *PEERS]
        ways = [make(directory) for make, directory in zip(makers, directories, strict=True)]
        blocked, added = {way: [] for way in ways}, {way: [] for way in ways}
        for number in range(options.rounds + 1):
            train(model, optimizer, options.steps)
            turn = number % len(ways)  # none is always the one after the training
            pairs = list(zip(ways, directories, strict=True))
            for way, directory in pairs[turn:] + pairs[:turn]:
                before = taken(directory)
                blocked[way].append(clocked(way.save, model, optimizer, number))
                way.finish()
                added[way].append(taken(directory) - before)
        load = f"load average {os.getloadavg()[0]:.1f}"
        print(f"{size / 1e6:.0f} MB, {vars(options)}, {torch.get_num_threads()} threads; {load}\n")
        row(
            "", "blocked, ms", "of the copy", "first, MB", "then, MB", "times less than the state",
            "restored, ms", "largest error, %",
        )  # fmt: skip
        row(*8 * ["---"])
        copied = median(blocked[ways[0]][1:])
        for way in ways:
            spent, later = median(blocked[way][1:]), median(added[way][1:])
            cells = [way.title, f"{1e3 * spent:.1f}", f"{spent / copied:.2f}"]
            if way.restore:
                times = []
                for _ in range(3):
                    other = build(options.layers)
                    times.append(clocked(way.restore, *other))
                first, error = added[way][0], far(model, other[0])
                cells += [
                    f"{first / 1e6:.1f}", f"{later / 1e6:.2f}", f"{size / later:.1f}",
                    f"{1e3 * median(times):.0f}", f"{100 * error:.2g}",
                ]  # fmt: skip
            row(*cells)


def row(*cells):
    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
