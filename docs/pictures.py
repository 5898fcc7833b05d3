"""Makes the pictures of the README anew: `make pictures`, or `python docs/pictures.py` (needs the extra `demo`)."""

import pathlib

from matplotlib.figure import Figure

import grad_cam
from grad_cam import loading, rendering, targets

HERE = pathlib.Path(__file__).parent
DEPTHS = ["blocks.1.1", "blocks.2.1", "blocks.3.2", "blocks.4.2", "blocks.5.3", "bn2"]


def keep(figure: Figure, name: str) -> None:
    """Writes a figure at the width in which a README is read, and says how large the file is."""
    path = rendering.save(figure, HERE / name, dpi=100)
    print(f"docs/{name}  {path.stat().st_size // 1000} kB")


def main() -> None:
    """Draws every picture with the demo model and the two packaged photos."""
    model = loading.load("demo")
    prepare = loading.preprocessing(model)
    espresso, _ = prepare(loading.samples()["espresso"])
    cat, _ = prepare(loading.samples()["cat"])

    sweep = grad_cam.sweep(model, espresso, layers=DEPTHS, method="hires_cam")
    keep(sweep.figure(colormap="viridis"), "espresso-layers.png")  # colours that are not those of the cup

    rather = targets.difference("tabby", "tiger cat")
    why = grad_cam.explain(model, cat, target=rather, method="hires_cam")
    keep(why.figure(view="signed"), "for-and-against.png")


if __name__ == "__main__":
    main()
