"""Trains the tiny nets: ``python -m tests.tiny.train [NAME ...]``; all of them in less than five minutes."""

from __future__ import annotations

import sys
import time

import torch
from safetensors.torch import save_file

from . import FOLDER, MOST_BYTES, nets


def main(names: list[str]) -> None:
    """Trains nets by name, or all, and writes their weights."""
    for name in names or list(nets()):
        torch.manual_seed(0)
        net, start = nets()[name], time.perf_counter()
        model = net.build()
        said = net.train(model.train())
        path = FOLDER / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise SystemExit(f"{path.name} has {size:,} bytes, more than {MOST_BYTES:,}")
        print(f"{name}: {said}; {time.perf_counter() - start:.0f} s, {size / 1024:.0f} KB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
