"""What balanced maps cost over a plain sweep.

    python benchmarks/rules.py [--quick] [--threads 1]

One image at 224, the predicted class, HiResCAM at the output of every block: with PyTorch's gradient, with the balanced
rules and the ledger, and with the residual rule as well.
"""

from __future__ import annotations

import common

import grad_cam

AIMS = {  # with the ledger, with the residual rule as well
    "vit_small_patch16_224": (1.15, 1.35),
    "swin_tiny_patch4_window7_224": (1.15, 1.35),
    "convnext_tiny": (1.15, 1.35),
    "resnet50": (1.7, 1.7),
    "tf_efficientnet_lite0": (1.7, 1.7),
}


def main() -> None:
    """Measures and prints all models."""
    given = common.arguments(__doc__.splitlines()[0])
    common.heading()
    for device in common.devices(given.device):
        for name, aims in AIMS.items():
            if given.only not in name:
                continue
            model, images = common.build(name, device), common.pictures(1, device)
            rounds = given.rounds or (5 if given.quick else 15)

            def sweep(model=model, images=images, **rules: object) -> object:
                return grad_cam.sweep(model, images, layers="blocks", method="hires_cam", **rules)

            runs: dict[str, common.Run] = {
                "forward": common.forward(model, images),
                "sweep": sweep,
                "balanced": lambda: sweep(rules="balanced"),  # noqa: B023
                "balanced, residual 1": lambda: sweep(rules="balanced", residual=1.0),  # noqa: B023
            }
            times = common.alternate(runs, rounds, warmup=2)
            rows = [["", "time", "x sweep", "CPU time x", "x forward", ""]]
            for run in ("sweep", "balanced", "balanced, residual 1"):
                wall, cpu = (common.ratio(times, run, "sweep", clock) for clock in ("wall", "cpu"))
                row = [run, common.milliseconds(times[run]), f"{wall:.2f}", f"{cpu:.2f}"]
                row.append(f"{common.ratio(times, run, clock='cpu'):.2f}")
                if run == "sweep":
                    rows.append([*row, ""])
                    continue
                aim = aims[run != "balanced"]
                rows.append([*row, common.verdict(common.judged(times, run, "sweep", device), aim)])
            common.table(f"{name}, batch 1, {device} ({rounds} rounds)", rows)


if __name__ == "__main__":
    main()
