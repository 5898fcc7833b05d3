"""The parts of the page, laid out, and their colours."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ... import METHODS
from ...loading import samples
from . import fragments
from .drawing import COLORMAPS, KINDS, Drawing
from .models import SUGGESTED
from .views import OPTIONS, TABS

__all__ = ["parts", "theme"]

COMPARED = ["grad_cam", "grad_cam_plus_plus", "layer_cam", "eigen_cam"]

# Tells of clicks on elements with data-pick; the listener stays when the content changes.
_PICK = """
element.addEventListener('click', (event) => {
  const picked = event.target.closest('[data-pick]');
  if (!picked) return;
  window.gradCamPicked = picked.dataset.pick;
  trigger('click', { pick: picked.dataset.pick });
});
"""


def parts(model: str) -> dict[str, Any]:
    """Lays the page out, for a model that may still be loading.

    Args:
        model: Its name.

    Returns:
        The parts of the page, by name.
    """
    part: dict[str, Any] = {
        "view": gr.State(None), "photo": gr.State(samples()["cat"]), "tab": gr.State(TABS[0]),
    }  # fmt: skip
    gr.HTML('<header class="gc-header"><h1>Grad-CAM, layer by layer</h1><p>See what a vision model saw</p></header>')
    with gr.Row(elem_classes="gc-main"):
        with gr.Column(scale=0, min_width=250, elem_classes="gc-side"):
            part |= _source(model)
        with gr.Column(scale=1, min_width=560, elem_classes="gc-stage"):
            part |= _stage(model)
        with gr.Column(scale=0, min_width=210, elem_classes="gc-controls"):
            part |= _settings()
    return part


def _source(model: str) -> dict[str, Any]:
    """The photo, the model and the class."""
    part = {}
    gr.HTML("<h2>Photo</h2>")
    with gr.Row(elem_classes="gc-source"):
        part["samples"] = gr.HTML(fragments.sample_buttons(), js_on_load=_PICK, elem_id="gc-samples")
        part["upload"] = gr.File(
            label="Upload a photo", file_count="single", file_types=["image"], height=88, elem_id="gc-upload",
            show_label=False, min_width=100,
        )  # fmt: skip
    part["model"] = gr.Dropdown(
        list(dict.fromkeys((model, *SUGGESTED))), value=model, label="Model", elem_id="gc-model",
        info="Any timm name, torchvision/NAME or hf:OWNER/NAME", allow_custom_value=True,
    )  # fmt: skip
    gr.HTML("<h2>Predictions</h2>")
    part["predictions"] = gr.HTML(js_on_load=_PICK, elem_id="gc-predictions")
    part["target"] = gr.Dropdown([], label="Class to explain", elem_id="gc-class")
    return part


def _stage(model: str) -> dict[str, Any]:
    """The pictures, in tabs, and the slider of layers."""
    part: dict[str, Any] = {"notice": gr.HTML(elem_id="gc-notice"), "headline": gr.HTML(elem_id="gc-headline")}
    with gr.Tabs():
        with gr.Tab("One layer") as part["tab layer"], gr.Row(elem_classes="gc-pictures"):
            part["seen"] = gr.HTML(elem_id="gc-seen")
            part["layer"] = gr.HTML(fragments.starting(model), js_on_load=_PICK, elem_id="gc-shown")
            part["evidence"] = gr.Button(
                "Ask the model how far this map holds", size="sm", elem_id="gc-evidence", visible=False
            )  # fmt: skip
        with gr.Tab("All layers") as part["tab layers"]:
            part["layers"] = gr.HTML(js_on_load=_PICK, elem_id="gc-layers")
        with gr.Tab("Methods") as part["tab methods"]:
            part["chosen"] = gr.Dropdown(
                _methods(), value=COMPARED, multiselect=True, label="Methods to compare", show_label=False,
                container=False, elem_id="gc-chosen",
            )  # fmt: skip
            part["methods"] = gr.HTML(js_on_load=_PICK, elem_id="gc-methods")
    with gr.Column(elem_classes="gc-panel", visible=False) as part["along"]:
        part["position"] = gr.Slider(0, 1, 0, step=1, label="Layer", elem_id="gc-position", buttons=[])
        part["where"] = gr.HTML(elem_id="gc-where")
    return part


def _settings() -> dict[str, Any]:
    """The method with its options, and how its map is drawn."""
    plain, part = Drawing(), {}
    part["method"] = gr.Dropdown(_methods(), value="auto", label="Method", min_width=190, elem_id="gc-method")
    part["advice"] = gr.HTML(fragments.advice("auto"), elem_id="gc-advice")
    with gr.Row(elem_classes="gc-options"):
        for number in range(OPTIONS):
            part[f"option {number}"] = gr.Number(visible=False, min_width=80, elem_id=f"gc-option-{number}", buttons=[])
    part["kind"] = gr.Radio(list(KINDS.items()), value=plain.view, label="Shown", elem_id="gc-kind", min_width=190)
    part["threshold"] = gr.Slider(
        0, 0.95, plain.threshold, step=0.005, label="Threshold", min_width=130, elem_id="gc-threshold", buttons=[]
    )
    part["smoothing"] = gr.Slider(
        0,
        20,
        plain.sigma((224, 224)),
        step=0.1,
        label="Smoothing (pixels)",
        min_width=130,
        elem_id="gc-smoothing",
        buttons=[],
    )
    part["alpha"] = gr.Slider(
        0, 1, plain.alpha, step=0.01, label="Opacity", min_width=130, elem_id="gc-alpha", buttons=[]
    )
    part["colormap"] = gr.Dropdown(
        list(COLORMAPS.items()), value=plain.colormap, label="Colours", min_width=110, elem_id="gc-colormap"
    )
    return part


def _methods() -> list[tuple[str, str]]:
    return [(method.title, name) for name, method in METHODS.items()]


def theme() -> gr.themes.Base:
    """Quiet colours, light and dark, and the fonts of the visitor's computer."""
    sans = ("-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "system-ui", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
    uses = {
        ("#f6f5f2", "#141413"): ["body_background_fill"],
        ("#ffffff", "#1d1c1a"): [
            "background_fill_primary", "block_background_fill", "input_background_fill",
            "checkbox_label_background_fill",
        ],
        ("#1c1b19", "#edebe6"): ["body_text_color", "checkbox_label_text_color_selected"],
        ("#66625b", "#a19c93"): [
            "body_text_color_subdued", "block_label_text_color", "block_title_text_color", "block_info_text_color",
        ],
        ("#dedbd4", "#34322e"): ["border_color_primary", "block_border_color", "input_border_color"],
        ("#eceae4", "#282623"): [
            "background_fill_secondary", "color_accent_soft", "checkbox_label_background_fill_selected",
        ],
        (_ACCENT, "#ff9457"): [
            "border_color_accent", "input_border_color_focus", "slider_color", "link_text_color",
            "link_text_color_hover", "link_text_color_visited", "link_text_color_active", "loader_color",
            "checkbox_background_color_selected", "checkbox_border_color_selected",
        ],
    }  # fmt: skip
    colours: dict[str, str] = {}
    for (light, dark), names in uses.items():
        colours |= dict.fromkeys(names, light) | dict.fromkeys([f"{name}_dark" for name in names], dark)
    base = gr.themes.Base(primary_hue="orange", neutral_hue="stone", font=sans, font_mono=mono, radius_size="md")
    return base.set(**colours, color_accent=_ACCENT, block_title_text_size="13px", block_shadow="none")


_ACCENT = "#b3420c"
