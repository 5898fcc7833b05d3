"""What maps cost while a network is trained: epochs with and without them, and the part of the time they take.

    python benchmarks/training.py [--quick] [--threads 1] [--rounds 3]

A small network learns drawn shapes. Every epoch begins with a new network and a new writer with its defaults, so that
the first maps, which record the network, are in it.
"""

from __future__ import annotations

import functools
import statistics
import tempfile

import common
import torch
from torch import Tensor, nn

from grad_cam import callbacks
from tests import shortcut_sets

AIM = 0.02
BATCH = 32


def epoch(images: Tensor, labels: Tensor, steps: int, written: list[tuple[float, int]] | None) -> None:
    """Trains for so many steps; appends the seconds that maps took and how often they were written."""
    torch.manual_seed(0)
    net = shortcut_sets.Net()
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    with tempfile.TemporaryDirectory() as folder:
        writer = callbacks.MapWriter(images[:4], callbacks.to_files(folder), method="hires_cam")
        for step in range(steps):
            some = torch.randint(len(images), (BATCH,))
            optimiser.zero_grad()
            nn.functional.cross_entropy(net.train()(images[some]), labels[some]).backward()
            optimiser.step()
            if written is not None:
                writer.step(net, step)
    if written is not None:
        written.append((writer.spent, len(writer.written)))


def main() -> None:
    """Runs it."""
    given = common.arguments(__doc__ or "")
    common.heading()
    pictures, classes, _ = shortcut_sets.batch(320, 0, None)
    images, labels = shortcut_sets.tensors(pictures), torch.tensor(classes)
    lines = [["steps", "epoch", "with maps", "x", "maps", "part of the time", "aim"]]
    for steps in (300,) if given.quick else (300, 1000, 3000):
        kept: list[tuple[float, int]] = []
        runs: dict[str, common.Run] = {
            "plain": functools.partial(epoch, images, labels, steps, None),
            "maps": functools.partial(epoch, images, labels, steps, kept),
        }
        times = common.alternate(runs, given.rounds or 3, warmup=0)
        parts = [spent / time.wall for (spent, _), time in zip(kept, times["maps"], strict=True)]
        part = statistics.median(parts)
        seconds = {name: f"{statistics.median(t.wall for t in found):.1f} s" for name, found in times.items()}
        lines.append([
            f"{steps:,}", seconds["plain"], seconds["maps"], f"{common.judged(times, 'maps', 'plain'):.3f}",
            str(statistics.median_low([count for _, count in kept])), f"{100 * part:.2f} %", common.verdict(part, AIM),
        ])  # fmt: skip
    common.table(f"MapWriter with its defaults, batches of {BATCH}, 4 pictures", lines)


if __name__ == "__main__":
    main()
