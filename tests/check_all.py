"""The heavy acceptance: every model family, named layers, threads and memory, slow tests, wheel, lowest versions.

::

    python -m tests.check_all                          # everything
    python -m tests.check_all timm hf                  # two parts
    python -m tests.check_all timm/resnet layers       # one item and a part
    python -m tests.check_all --list                   # what there is
    python -m tests.check_all --summary                # what the results file says, nothing is run

Every item's result is appended as one JSON line to a file, at once; a run that was stopped goes on where it was. Items
whose result is there for the same code of the package are not run again; `--resume` takes results of other code as
well, `--again` repeats what failed, `--fresh` repeats everything.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import gc
import hashlib
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIMIT = 1800  # seconds an item may take
SLOW_LIMIT = 5400


# --------------------------------------------------------------------------------------------------------------- items


def _timm_items() -> list[str]:
    from .families import TIMM

    heavy = ["nasnet", "pnasnet", "deepseek_vit", "gemma4_vit", "qwen3_vit", "mobilenetv5", "naflexvit", "beit"]
    return [*heavy, *(name for name in TIMM if name not in heavy)]  # the long ones first: workers end together


def _torchvision_items() -> list[str]:
    from .families import TORCHVISION

    return list(TORCHVISION)


def _hugging_face_items() -> list[str]:
    from .hugging_face import CLASSIFIERS

    return [*CLASSIFIERS, "coverage"]


def _layer_items() -> list[str]:
    from .named_layers import LAYERS

    return list(LAYERS)


def _timm(item: str) -> Any:
    from . import families, oracles

    model = oracles.enliven(families.build(item))
    channels, height, width = oracles.input_shape(model)
    side = families.SIDES.get(item)
    return oracles.examine(model, (channels, side, side) if side else (channels, height, width))


def _torchvision(item: str) -> Any:
    import grad_cam

    from . import families, oracles

    model = families.build_torchvision(item)
    out = oracles.examine(oracles.enliven(model), (3, 224, 224))
    with out.check("stages"):
        count = len(grad_cam.chain(model, (224, 224)))
        assert count == families.TORCHVISION[item], f"{count} stages instead of {families.TORCHVISION[item]}"
    return out


def _hugging_face(item: str) -> Any:
    from . import hugging_face, oracles

    out = oracles.Outcome()
    if item == "coverage":
        with out.check("coverage"):
            missing = hugging_face.uncovered()
            assert not missing, f"no small model of {', '.join(missing)}"
        out.notes += [f"{name} is not built: {why}" for name, why in hugging_face.NOT_BUILT.items()]
        return out
    how = hugging_face.CLASSIFIERS[item]
    model = hugging_face.build(item)
    if how.may_refuse:
        import grad_cam
        from grad_cam.errors import GradCamError

        try:
            grad_cam.explain(model, oracles.images((3, how.size, how.size), 2))
        except GradCamError as error:
            out.count("refused")
            out.notes.append(f"refused, as it may be ({how.may_refuse}): {' '.join(str(error).split())[:300]}")
            return out
    return oracles.examine(model, (3, how.size, how.size))


def _layers(item: str) -> Any:
    from . import named_layers

    return named_layers.examine(item)


def _threads(item: str) -> Any:
    from . import endurance, oracles

    out = oracles.Outcome()
    with out.check(item):
        out.notes.append(endurance.CHECKS[item]())
    return out


def _rules_items() -> list[str]:
    from .rules_families import items

    return items()


def _rules(item: str) -> Any:
    from .rules_families import examine

    return examine(item)


def _endurance_items() -> list[str]:
    from .endurance import CHECKS

    return list(CHECKS)


def _command(*command: str) -> Any:
    from . import oracles

    out = oracles.Outcome()
    with out.check(" ".join(command[:3])):
        done = subprocess.run(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SLOW_LIMIT - 60
        )
        lines = [line for line in done.stdout.strip().splitlines() if line.strip()]
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        assert done.returncode in (0, 5), f"exit code {done.returncode}: {' | '.join((failed or lines)[-12:])}"
        out.notes.append(lines[-1] if lines else "no output")
    return out


def _slow_items() -> list[str]:
    """Test files that hold slow tests, the longest first; each in a process of its own, whose memory ends with it."""
    files = [path for path in (ROOT / "tests").glob("test_*.py") if "mark.slow" in path.read_text(encoding="utf-8")]
    long = ["test_users_models", "test_folders", "test_site", "test_layouts"]
    return sorted((path.stem for path in files), key=lambda name: (name not in long, name))


def _slow(item: str) -> Any:
    return _command(sys.executable, "-m", "pytest", "-q", "-m", "slow", "-p", "no:cacheprovider", f"tests/{item}.py")


def _wheel(item: str) -> Any:
    return _command("make", "wheel-check")


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the acceptance: names of its items, and how one is checked (gives `oracles.Outcome`)."""

    items: Callable[[], list[str]]
    run: Callable[[str], Any]
    limit: int = LIMIT


PARTS = {
    "slow": Part(_slow_items, _slow, SLOW_LIMIT),  # the longest items first
    "timm": Part(_timm_items, _timm),
    "torchvision": Part(_torchvision_items, _torchvision),
    "hf": Part(_hugging_face_items, _hugging_face),
    "rules": Part(_rules_items, _rules),
    "layers": Part(_layer_items, _layers),
    "threads": Part(_endurance_items, _threads),
    "docs": Part(lambda: ["site"], lambda _: _command("make", "docs-check"), SLOW_LIMIT),
    "wheel": Part(lambda: ["wheel-check"], _wheel, SLOW_LIMIT),
    "lowest": Part(lambda: ["versions"], lambda _: _command("make", "lowest"), SLOW_LIMIT),
}


# ------------------------------------------------------------------------------------------------------------- running


def engine() -> str:
    """A fingerprint of the package's code, committed or not."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "grad_cam").rglob("*.py")):
        found.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def commit() -> str:
    """The commit the working tree is at, or "" outside a repository."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError after a time, in the main thread."""

    def end(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def prepare() -> None:
    """Makes a worker quiet and single-threaded."""
    warnings.filterwarnings("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"
    import torch

    torch.set_num_threads(1)
    with contextlib.suppress(ImportError):
        from transformers.utils import logging

        logging.set_verbosity_error()


def run(part: str, item: str) -> dict[str, Any]:
    """Checks one item; whatever happens becomes a result."""
    start, cpu = time.perf_counter(), time.process_time()
    failures: list[str] = []
    notes: list[str] = []
    counts: dict[str, int] = {}
    try:
        with limited(PARTS[part].limit):
            out = PARTS[part].run(item)
        failures, notes, counts = out.failures, out.notes, out.counts
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:400]
        failures = [f"{type(error).__name__} in {pathlib.Path(where.filename).name}:{where.lineno}: {text}"]
    gc.collect()
    return {
        "part": part, "item": item, "ok": not failures, "seconds": round(time.perf_counter() - start, 1),
        "cpu": round(time.process_time() - cpu, 1), "failures": failures, "notes": notes, "counts": counts,
    }  # fmt: skip


def each(wanted: Sequence[tuple[str, str]], workers: int) -> Iterator[dict[str, Any]]:
    """Results as they come; an item that kills its worker is a failure, and the others go on."""
    left = list(wanted)
    suspects: list[tuple[str, str]] = []  # under way when a worker died: run again, one at a time
    context = multiprocessing.get_context("spawn")
    while left or suspects:
        alone = bool(suspects)
        count = 1 if alone else workers
        with concurrent.futures.ProcessPoolExecutor(count, context, prepare) as pool:
            queue, suspects = (suspects, []) if alone else (left, [])
            waiting: dict[Any, tuple[str, str]] = {}
            broken = False
            while (queue or waiting) and not broken:
                while queue and len(waiting) < count:
                    key = queue.pop(0)
                    waiting[pool.submit(run, *key)] = key
                done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    key = waiting.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        broken = True
                        if alone:
                            yield {
                                "part": key[0], "item": key[1], "ok": False, "seconds": 0.0, "cpu": 0.0,
                                "failures": ["the process was killed (memory?)"], "notes": [], "counts": {},
                            }  # fmt: skip
                        else:
                            suspects.append(key)
            suspects += waiting.values()
            if alone:
                suspects += queue


# ------------------------------------------------------------------------------------------------------------- results


def known(path: pathlib.Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The last result of every item in a file."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError, KeyError):  # a line cut off when the run was stopped
                result = json.loads(line)
                found[result["part"], result["item"]] = result
    return found


def line_of(result: dict[str, Any]) -> str:
    """One line for an item, and one for each failure."""
    counts = ", ".join(f"{n} {what}" for what, n in result["counts"].items())
    head = f"{'ok    ' if result['ok'] else 'FAILED'} {result['part']}/{result['item']}"
    lines = [f"{head:<48} {result['seconds']:>7.1f} s  {counts}".rstrip()]
    lines += [f"           {failure}" for failure in result["failures"]]
    return "\n".join(lines)


def summary(results: Sequence[dict[str, Any]], missing: int) -> bool:
    """Prints what was found; returns whether all is well."""
    print("\nSummary")
    for part in PARTS:
        some = [r for r in results if r["part"] == part]
        if not some:
            continue
        good = sum(r["ok"] for r in some)
        counts: collections.Counter[str] = collections.Counter()
        for r in some:
            counts.update(r["counts"])
        seconds = sum(r["seconds"] for r in some)
        print(
            f"  {part:<12} {good:>3} of {len(some):>3} ok  {seconds / 60:>6.1f} min  "
            + ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
        )
    failed = [r for r in results if not r["ok"]]
    for r in failed:
        print(f"  FAILED {r['part']}/{r['item']}: {r['failures'][0]}")
    if missing:
        print(f"  {missing} items were not run")
    print("all ok" if not failed and not missing else "NOT ok")
    return not failed and not missing


def selected(names: Sequence[str]) -> list[tuple[str, str]]:
    """(part, item) of everything that was named."""
    found: dict[tuple[str, str], None] = {}
    for name in names or PARTS:
        part, _, item = name.partition("/")
        if part not in PARTS:
            raise SystemExit(f"there is no part {part!r}; there are {', '.join(PARTS)}")
        items = PARTS[part].items()
        if item and item not in items:
            raise SystemExit(f"{part} has no item {item!r}; it has {', '.join(items)}")
        found.update(dict.fromkeys((part, one) for one in ([item] if item else items)))
    return list(found)


def main() -> int:
    """Runs what was asked for and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="PART[/ITEM]", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "check-all.jsonl", help="the results file")
    parser.add_argument("--resume", action="store_true", help="take results of other code of the package as well")
    parser.add_argument("--again", action="store_true", help="repeat what failed")
    parser.add_argument("--fresh", action="store_true", help="repeat everything")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each (default 2)")
    parser.add_argument("--list", action="store_true", help="print the items and stop")
    parser.add_argument("--summary", action="store_true", help="print the summary of the results file and stop")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = selected(given.names)
    if given.list:
        print("\n".join(f"{part}/{item}" for part, item in wanted))
        return 0
    code, at = engine(), commit()
    old = {} if given.fresh else known(given.results)
    done = {
        key: old[key] for key in wanted
        if key in old and (given.resume or old[key].get("engine") == code) and (old[key]["ok"] or not given.again)
    }  # fmt: skip
    todo = [] if given.summary else [key for key in wanted if key not in done]
    print(f"{len(wanted)} items, {len(done)} known from {given.results.name}, {len(todo)} to run", flush=True)
    begin = time.perf_counter()
    with given.results.open("a") as file, contextlib.suppress(KeyboardInterrupt):
        for result in each(todo, max(1, given.workers)):
            result |= {"engine": code, "commit": at, "time": time.strftime("%Y-%m-%dT%H:%M:%S")}
            file.write(json.dumps(result) + "\n")
            file.flush()
            done[result["part"], result["item"]] = result
            print(line_of(result), flush=True)
    if todo:
        print(f"\n{(time.perf_counter() - begin) / 60:.1f} minutes")
    return 0 if summary(list(done.values()), len(wanted) - len(done)) else 1


if __name__ == "__main__":
    sys.exit(main())
