"""The plainest refinement: at each pixel the class with the highest CAM."""

import numpy as np

from tag2mask.cam_files import CamFile, full_resolution


def argmax_mask(cam: CamFile, background_threshold: float) -> np.ndarray:
    """The label map of one photograph's CAMs.

    Args:
        cam: with background among its maps, or without.
        background_threshold: the background's value, in [0, 1], where it is not among the maps.

    Returns:
        uint8 (H, W), class ids, 0 = background; a tie goes to the lower id.
    """
    maps = full_resolution(cam)
    ids = np.asarray(cam.ids, dtype=np.uint8)
    if not cam.has_background:
        background = np.full((1, *cam.size), background_threshold, dtype=np.float32)
        maps, ids = np.concatenate([background, maps]), np.concatenate([np.zeros(1, dtype=np.uint8), ids])
    labels: np.ndarray = ids[maps.argmax(0)]
    return labels
