"""The whole of it in one short script: a model, a picture, what the model saw.

    python test.py [PICTURE [MODEL]]        # without arguments: the sample cat and the demo model, no network needed
"""

import sys

import grad_cam
from grad_cam import zoo

picture = sys.argv[1] if len(sys.argv) > 1 else zoo.samples()["cat"]
model = zoo.load(sys.argv[2] if len(sys.argv) > 2 else "demo")  # any torch.nn.Module will do here

print(grad_cam.chain(model))  # choose a layer_idx from the first column

cam = grad_cam.GradCAM(model, picture, layer_idx=None)  # None: the last layer that has a map
heatmap = cam()  # (H, W), 0..1

cam.origin_cam_visualization("cam-map.png", force=True)  # the map at the layer's own size
cam.imposing_visualization("cam.png", force=True)  # image, overlay, heatmap, colormap
print(f"{cam.explanation.title()}\ncam.png, cam-map.png and the four pictures cam-*.png are here")
