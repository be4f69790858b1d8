"""Base CAMs from CLIP (CLIP-ES): softmax Grad-CAM and class-aware attention affinity."""

from tag2mask.cams.clip.clip_es import ClipCams, clip_cams
from tag2mask.cams.clip.model import Clip
from tag2mask.cams.clip.prompts import Prompts, read_prompts

__all__ = ["Clip", "ClipCams", "Prompts", "clip_cams", "read_prompts"]
