"""The only place that reads facts off a model: wrappers, input size and channels, tokens, classes, device and dtype."""

from .configurations import Declared, as_size, processor_size, run_processor, timm_config
from .detectors import detector_names, is_detector
from .facts import (
    DEFAULT_CHANNELS,
    DEFAULT_SIZE,
    class_count,
    clip_channels,
    declared_channels,
    declared_class_count,
    declared_frames,
    declared_size,
    device_and_dtype,
    frames_first,
    input_channels,
    input_channels_source,
    input_description,
    input_size,
    input_size_source,
    is_multi_label,
    matched_to,
    prefix_tokens,
    reductions,
    unwrap,
    wrapped,
)
from .published import is_torchvision, torchvision_names, torchvision_weights

__all__ = [
    "DEFAULT_CHANNELS", "DEFAULT_SIZE", "Declared", "as_size", "class_count", "clip_channels", "declared_channels",
    "declared_class_count", "declared_frames", "declared_size", "detector_names", "device_and_dtype", "frames_first",
    "input_channels", "input_channels_source", "input_description", "input_size", "input_size_source", "is_detector",
    "is_multi_label", "is_torchvision", "matched_to", "prefix_tokens", "processor_size", "reductions",
    "run_processor", "timm_config", "torchvision_names", "torchvision_weights", "unwrap", "wrapped",
]  # fmt: skip
