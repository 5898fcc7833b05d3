"""Makes stored pictures anew: `make pictures` those of the README, `make pictures VIT=path` those of a real ViT, too.

Needs the extra `demo`. `path` holds the weights of the model in `workshop/vit.py`.
"""

import pathlib
import sys

from matplotlib.figure import Figure

import grad_cam
from grad_cam import loading, rendering, targets

HERE = pathlib.Path(__file__).parent
DEPTHS = ["blocks.1.1", "blocks.2.1", "blocks.3.2", "blocks.4.2", "blocks.5.3", "bn2"]


def keep(figure: Figure, name: str) -> None:
    """Writes a figure at the width in which a README is read, and says how large the file is."""
    path = rendering.save(figure, HERE / name, dpi=100)
    print(f"docs/{name}  {path.stat().st_size // 1000} kB")


def of_readme() -> None:
    """Draws every picture of the README with the demo model and the two packaged photos."""
    model = loading.load("demo")
    prepare = loading.preprocessing(model)
    espresso, _ = prepare(loading.samples()["espresso"])
    cat, _ = prepare(loading.samples()["cat"])

    sweep = grad_cam.sweep(model, espresso, layers=DEPTHS, method="hires_cam")
    keep(sweep.figure(colormap="viridis"), "espresso-layers.png")  # colours that are not those of the cup

    rather = targets.difference("tabby", "tiger cat")
    why = grad_cam.explain(model, cat, target=rather, method="hires_cam")
    keep(why.figure(view="signed"), "for-and-against.png")


def of_vit(weights: str, only: list[str]) -> None:
    """Draws the overlay of every method, or of those named, on a real ViT that is asked about a church."""
    sys.path.insert(0, str(HERE.parent))
    from docs.workshop import cards, vit
    from grad_cam.errors import GradCamError

    model = vit.build(weights)
    images, photo = loading.Preprocessing(size=224, crop_pct=1.0)(HERE / "vit/church.jpg")
    print(model(images).softmax(1).max(1), photo)
    for name in only or cards.methods():
        try:
            options = cards.FASTER.get(name, {})
            result = grad_cam.explain(model, images, target="church", method=name, **options)
        except GradCamError as error:
            print(f"{name}: {error}")
            continue
        path = HERE / f"vit/{name}.webp"
        result.overlay().convert("RGB").save(path, "WEBP", quality=80, method=6)
        print(f"docs/vit/{name}.webp  {path.stat().st_size // 1000} kB  {result.layer}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        of_readme()
    if len(sys.argv) > 1:
        of_vit(sys.argv[1], sys.argv[2:])
