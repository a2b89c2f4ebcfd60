"""A training loop of PyTorch that goes on from its newest checkpoint; also for a parent that kills
it: `python torch_training.py DIRECTORY STEPS`."""

import random
import sys
import threading

import numpy as np
import torch
from torch import nn

from keras_lc.torch import Checkpointer


class Training:
    """Everything that a run has: dropout, statistics, schedulers, a scaler, shuffled data."""

    def __init__(self):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        self.x, self.y = torch.randn(64, 8), torch.randn(64, 3)
        self.model = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)
        )
        slow = {"params": self.model[4].parameters(), "lr": 1e-3}
        groups = [{"params": [*self.model[0].parameters(), *self.model[1].parameters()]}, slow]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-2, amsgrad=True)
        warm = torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.1, total_iters=3)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 40)
        self.scheduler = torch.optim.lr_scheduler.SequentialLR(self.optimizer, [warm, cosine], [3])
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3)
        self.step = 0

    @property
    def objects(self):
        return self.model, self.optimizer, self.scheduler, self.scaler

    def train(self, steps):
        losses = []
        for _ in range(steps):
            rows = torch.randperm(len(self.x))[: 8 + random.randrange(8)]
            noise = torch.from_numpy(np.random.normal(0, 0.1, (len(rows), 3)).astype("float32"))
            self.optimizer.zero_grad()
            loss = (self.model(self.x[rows]) - self.y[rows] - noise).square().mean()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.scheduler.step()
            self.step += 1
            losses.append(loss.item())
        return losses

    def save(self, checkpointer, **options):
        checkpointer.save(*self.objects, epoch=0, step=self.step, **options)


def worked(restore):
    """The worker threads that were started meanwhile."""
    names = set()
    threading.setprofile(lambda *_: names.add(threading.current_thread().name))
    try:
        restore()
    finally:
        threading.setprofile(None)
    return {name for name in names if name.startswith("keras_lc-worker")}


def same(ours, theirs):
    """Whether two state dictionaries are the same, bit for bit."""
    if isinstance(ours, torch.Tensor):
        ours, theirs = ours.detach().resolve_conj(), theirs.detach().resolve_conj()
        return ours.dtype == theirs.dtype and torch.equal(
            ours.reshape(-1).contiguous().view(torch.uint8),
            theirs.reshape(-1).contiguous().view(torch.uint8),
        )
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


def equal(one, other):
    """Whether two trainings are in the same state, bit for bit."""
    return all(
        same(a.state_dict(), b.state_dict())
        for a, b in zip(one.objects, other.objects, strict=True)
    )


def main(directory, steps):
    training = Training()
    with Checkpointer(directory, codec="lossless", keyframe_every=5) as checkpointer:
        restored = checkpointer.restore_latest(*training.objects)
        training.step = restored.step if restored else 0
        print(f"from {training.step}", flush=True)
        while training.step < int(steps):
            training.train(1)
            training.save(checkpointer)
    print(f"digest {random.random()} {np.random.random()} {torch.rand(1).item()}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
