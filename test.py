"""The whole of it in one short script: a model, a picture, what the model saw.

Run it as `python test.py` (the sample cat and the demo model, no network) or as `python test.py PICTURE MODEL`.
"""

import sys

import grad_cam
from grad_cam import loading

picture = sys.argv[1] if len(sys.argv) > 1 else loading.samples()["cat"]
try:
    model = loading.load(sys.argv[2] if len(sys.argv) > 2 else "demo")  # or any torch.nn.Module of your own
except loading.ModelError as error:
    sys.exit(f"{error}\nOr name another model: python test.py PICTURE resnet18")

print(grad_cam.chain(model))  # choose a layer_idx from the first column

cam = grad_cam.GradCAM(model, picture, layer_idx=None)  # None: the last layer that has a map
heatmap = cam()  # (H, W), 0..1

cam.origin_cam_visualization("cam-map.png", force=True)  # the map at the layer's own size
cam.imposing_visualization("cam.png", force=True)  # image, overlay, heatmap, colormap
print(f"\n{cam.explanation.title()}\nThe pictures are cam.png, cam-map.png and cam-*.png, here.")
