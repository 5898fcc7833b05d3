"""`grad-cam demo`: two sample photos explained, without settings and without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..common import predictions, refuse_existing
from .console import busy, say
from .edge import command
from .options import OUT, Force, ModelOptions, Show, option
from .parsing import check_folder, open_viewer
from .results import SHOWN, side_by_side

FOLDER = Path("demo-output")
PICTURES = {
    "espresso.png": "what the model saw in the espresso",
    "cat.png": "and in the cat",
    "cat-classes.png": "the cat's three likeliest classes side by side",
    "espresso-layers.png": "the espresso layer by layer",
    "espresso-layers.gif": "the same, moving",
}


@command("demo")
def demo(
    output: Annotated[
        Path, option("--output", "-o", panel=OUT, metavar="DIR", help="Folder for the pictures.")
    ] = FOLDER,
    force: Force = False,
    show: Show = False,
) -> None:
    """Explain two sample photos with a small EfficientNet; needs no settings and no network.

    Writes the four panels for both, three classes of the cat side by side, and the espresso layer by layer. \
In its own folder, demo-output, it replaces them each time.

    [bold]Example[/]
      grad-cam demo
    """
    paths = {name: output / name for name in PICTURES}
    refuse_existing(list(paths.values()), force or output == FOLDER)
    check_folder(output)
    opened = ModelOptions().open()
    with busy("Explaining two photos"):
        from ... import explain, rendering, sweep, targets
        from ...loading import load_image, samples

        photos = {name: load_image(path) for name, path in samples().items()}
        whole = {name: opened.prepare.whole(photo) for name, photo in photos.items()}
        inputs = {name: opened.prepare(photo)[0] for name, photo in photos.items()}
        found = {name: explain(opened.model, inputs[name], method="auto") for name in ("espresso", "cat")}
        for name, result in found.items():
            rendering.save(result.figure(photo=whole[name]), paths[f"{name}.png"])
        three = explain(opened.model, inputs["cat"], target=targets.top(3), method="auto")
        rendering.save(
            side_by_side([three], opened.name, rendering.Display(), targets=range(3), photo=whole["cat"]),
            paths["cat-classes.png"],
        )
        layers = sweep(opened.model, inputs["espresso"], layers="blocks", method="layer_cam")
        rendering.save(layers.figure(photo=whole["espresso"]), paths["espresso-layers.png"])
        layers.animate(paths["espresso-layers.gif"], force=True)
    for name, result in found.items():
        say((name, "bold"), f"  {', '.join(map(str, predictions(result.logits[0], opened.labels, SHOWN)))}")
    say()
    for name, text in PICTURES.items():
        say("  ", (str(paths[name]), "green"), f"  {text}")
    say("\nNext: ", ("grad-cam layers", "cyan"), ", then ", ("grad-cam explain PHOTO --layer LAYER", "cyan"))
    if show:
        open_viewer([path for path in paths.values() if path.suffix == ".png"])
