"""Suffixes of the files that are read, in small letters."""

from __future__ import annotations

__all__ = ["PICTURES", "VIDEOS", "VOLUMES"]

PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".jp2", ".ppm", ".pgm")
"""Suffixes of the pictures that are taken from a folder."""

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
"""Suffixes of videos."""

VOLUMES = (".nii", ".nii.gz", ".dcm", ".dicom")
"""Suffixes of volumes."""
