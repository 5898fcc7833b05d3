"""What the benchmarks share: alternating timings, peak memory in a fresh process, and tables.

Times are compared only within one run: in every round each contender runs once, in an order that rotates, and a ratio
is the median over the rounds of contender / forward of the same round. Another program on the machine then slows both.
Where the machine is busy the ratio of CPU times says more, since a program that waits for its turn uses none: aims are
then judged by it, and the heading says so. `--threads 1` helps there too: threads wait for the slowest of them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import gc
import io
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # measure this working tree, installed or not

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

BUSY = os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1)  # before anything is measured
Run = Callable[[], Any]
SIZE = 224


# ------------------------------------------------------------------------------------------------------------- models


def build(name: str, device: str = "cpu") -> nn.Module:
    """A timm model with random weights; time and memory do not depend on them."""
    import timm

    torch.manual_seed(0)
    options = {"zero_init_last": False} if name.startswith("resnet") else {}
    return timm.create_model(name, pretrained=False, **options).eval().to(device)


def pictures(batch: int, device: str = "cpu", size: int = SIZE) -> Tensor:
    """Random images, (B, 3, size, size)."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)


def forward(model: nn.Module, images: Tensor) -> Run:
    """The measure of everything: a plain forward pass in inference mode."""

    def run() -> Tensor:
        with torch.inference_mode():
            return model(images)

    return run


def tokens_to_map(activations: Tensor) -> Tensor:
    """The layout of a ViT with or without a class token as other libraries want it, (B, N, C) to (B, C, h, w)."""
    side = math.isqrt(activations.shape[1])
    return activations[:, activations.shape[1] - side * side :].transpose(1, 2).unflatten(2, (side, side))


def clear(model: nn.Module) -> None:
    """Throws away the parameter gradients that other libraries leave behind."""
    model.zero_grad(set_to_none=True)


# -------------------------------------------------------------------------------------------------------------- timing


def synchronize() -> None:
    """Waits for the GPU if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Time(NamedTuple):
    """How long a call took, in seconds."""

    wall: float
    cpu: float  # of all threads of this process, and of processes that it started and that have ended


Times = dict[str, list[Time]]


def _cpu() -> float:
    return time.process_time() + sum(os.times()[2:4])


def timed(run: Run) -> Time:
    """The time of one call."""
    synchronize()
    start, cpu = time.perf_counter(), _cpu()
    with quiet():
        run()
    synchronize()
    return Time(time.perf_counter() - start, _cpu() - cpu)


def alternate(contenders: dict[str, Run], rounds: int, warmup: int = 1) -> Times:
    """The time of each contender in each round; the order rotates from round to round."""
    names = list(contenders)
    for name in names:
        for _ in range(warmup):
            timed(contenders[name])
    times: Times = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(timed(contenders[name]))
    return times


def ratio(times: Times, name: str, base: str = "forward", clock: str = "wall") -> float:
    """Median over the rounds of one contender's time over another's."""
    pairs = zip(times[name], times[base], strict=True)
    return statistics.median(getattr(a, clock) / getattr(b, clock) for a, b in pairs)


def clock(device: str = "cpu") -> str:
    """By which clock an aim is judged: CPU time on a CPU that others use as well, else the wall."""
    return "cpu" if device == "cpu" and BUSY else "wall"


def judged(times: Times, name: str, base: str = "forward", device: str = "cpu") -> float:
    """The ratio that is held against an aim."""
    return ratio(times, name, base, clock(device))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the progress bars of other libraries out of the table."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


# -------------------------------------------------------------------------------------------------------------- memory


def _resident() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_of(run: Run, device: str = "cpu") -> float:
    """Peak memory of one call over what is held before it, in MB. To be called in a process of its own."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    before, highest, done = _resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.is_set():
            highest = max(highest, _resident())
            time.sleep(0.0005)

    exact = _reset_high_water()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    with quiet():
        run()
    done.set()
    watcher.join()
    highest = max(highest, _resident(), _high_water() if exact else 0)
    return (highest - before) / 2**20


def held(device: str = "cpu") -> float:
    """Memory held now, in MB, what the allocator keeps for later given back."""
    gc.collect()
    if device == "cuda":
        return torch.cuda.memory_allocated() / 2**20
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _resident() / 2**20


def _reset_high_water() -> bool:
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return abs(_high_water() - _resident()) < 2**24


def _high_water() -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    return 0


def in_child(script: str, **what: Any) -> Any:
    """Runs `script --child JSON` in a fresh process and returns what it prints last, as JSON."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "MALLOC_MMAP_THRESHOLD_": "131072",  # freed tensors go back to the system and are not counted twice
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [sys.executable, script, "--child", json.dumps(what)], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:200] if done.stderr.strip() else "no message"}
    return json.loads(done.stdout.strip().splitlines()[-1])


# --------------------------------------------------------------------------------------------------------------- print


def arguments(description: str, *flags: str) -> argparse.Namespace:
    """The options that all benchmarks have, and on/off flags of their own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and fewer channels: a look, not a result")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: both, if there is a GPU")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--rounds", type=int, help="rounds of alternating timings")
    parser.add_argument("--only", default="", help="only the sections whose name holds this text")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    for flag in flags:
        name, _, words = flag.partition(": ")
        parser.add_argument(f"--{name}", action="store_true", help=words)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    return given


def begun(description: str, *flags: str, child: Callable[..., Any]) -> argparse.Namespace:
    """The options, with the heading printed; in a process started for one figure prints that and ends the process."""
    given = arguments(description, *flags)
    if given.child:
        print(json.dumps(child(**json.loads(given.child))))
        raise SystemExit
    heading()
    return given


def devices(asked: str | None) -> list[str]:
    """Where to measure."""
    if asked:
        return [asked]
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def heading() -> None:
    """Says on what the figures were measured."""
    versions = []
    for package in ("torch", "timm", "grad-cam", "torchcam", "captum"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{gpu}; {', '.join(versions)}"
    )
    by = "CPU time, because others use this machine" if BUSY else "the wall clock"
    print(f"load of the machine at the start: {os.getloadavg()[0]:.1f}; times on the CPU are judged by {by}")


def table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under a title, the first row being the header."""
    print(f"\n{title}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for i, row in enumerate(rows):
        cells = (row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)))
        print("  " + "  ".join(cells).rstrip())
        if i == 0:
            print("  " + "  ".join("-" * w for w in widths))
    sys.stdout.flush()
    if os.environ.get("BENCH_JSON"):
        _keep(pathlib.Path(os.environ["BENCH_JSON"]), title, rows)


def _keep(path: pathlib.Path, title: str, rows: Sequence[Sequence[str]]) -> None:
    """Puts a table into the JSON file that the site reads, in the place of the one of the same title."""
    found = json.loads(path.read_text(encoding="utf-8"))["sections"] if path.exists() else []
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    if BUSY:
        machine += ", used by others as well: compare the CPU times"
    entry = {
        "title": title.split(" (")[0], "words": title, "date": datetime.date.today().isoformat(), "machine": machine,
        "rows": [list(row) for row in rows],
    }  # fmt: skip
    kept = [each for each in found if each["title"] != entry["title"]]
    path.write_text(json.dumps({"sections": [*kept, entry]}, indent=1) + "\n", encoding="utf-8")


def verdict(value: float, limit: float, *, at_least: bool = False) -> str:
    """`ok` or `MISSED`, with the aim."""
    good = value >= limit if at_least else value <= limit
    return f"{'ok' if good else 'MISSED'} ({'>=' if at_least else '<='} {limit:g})"


def milliseconds(times: Sequence[Time], scale: float = 1.0) -> str:
    """The median wall time, for a table."""
    value = 1000 * scale * statistics.median(t.wall for t in times)
    return f"{value:.1f} ms" if value < 1000 else f"{value / 1000:.2f} s"
