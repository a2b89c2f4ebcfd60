"""A small transformer of PyTorch learns to write Python, is killed, and goes on.

    python examples/torch_training.py

A training is started, killed with SIGKILL after its fifth checkpoint, and started again; then the
same one runs without being killed. Both end in the same state, bit for bit.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from keras_lc import list_checkpoints
from keras_lc.torch import Checkpointer

STEPS, EVERY = 60, 5
LENGTH, WIDTH = 64, 64
TEXT = torch.frombuffer(bytearray(Path(argparse.__file__).read_bytes()), dtype=torch.uint8).long()


class Writer(nn.Module):
    """Tells the next byte of a text."""

    def __init__(self):
        super().__init__()
        self.bytes = nn.Embedding(256, WIDTH)
        self.places = nn.Parameter(torch.zeros(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(WIDTH, 256, bias=False)
        self.out.weight = self.bytes.weight  # stored once
        nn.init.normal_(self.bytes.weight, std=0.05)

    def forward(self, text):
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        return self.out(self.layers(self.bytes(text) + self.places, mask=mask, is_causal=True))


def train(directory):
    """A training loop; the four lines with `checkpointer` are all that it needs to go on."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Writer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
    with Checkpointer(directory, codec="lossless") as checkpointer:
        restored = checkpointer.restore_latest(model, optimizer, scheduler)
        begin = restored.step if restored else 0
        print(f"trains from step {begin}", flush=True)
        for step in range(begin + 1, STEPS + 1):
            places = torch.randint(len(TEXT) - LENGTH, (16, 1)) + torch.arange(LENGTH + 1)
            text = TEXT[places]
            loss = nn.functional.cross_entropy(model(text[:, :-1]).mT, text[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if step % EVERY == 0:
                logs = {"loss": loss.item()}
                checkpointer.save(model, optimizer, scheduler, epoch=0, step=step, logs=logs)
    state = hashlib.sha256()
    for tensor in model.state_dict().values():
        state.update(tensor.numpy().tobytes())
    print(f"state {state.hexdigest()[:16]}, next random number {torch.rand(1).item():.6f}")


def start(directory):
    command = [sys.executable, __file__, "--train", str(directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def main():
    with tempfile.TemporaryDirectory() as scratch:
        killed, whole = Path(scratch) / "killed", Path(scratch) / "whole"
        with start(killed) as training:
            while len(list_checkpoints(killed)) < 5 and training.poll() is None:
                time.sleep(0.01)
            training.kill()
        print("killed, started again:")
        with start(killed) as training:
            ends = [training.stdout.read()]
        print(ends[0], end="")
        print("never killed:")
        with start(whole) as training:
            ends.append(training.stdout.read())
        print(ends[1], end="")
        same = ends[0].splitlines()[-1] == ends[1].splitlines()[-1]
        print("the same, bit for bit" if same else "NOT THE SAME")
        for checkpoint in list_checkpoints(killed):
            name, loss = Path(checkpoint.path).name, checkpoint.logs["loss"]
            print(f"{name}  {checkpoint.kind:5}  {checkpoint.nbytes:9,} bytes  loss {loss:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--train")
    directory = parser.parse_args().train
    train(directory) if directory else main()
