"""Generated scenes: images of creatures whose CAMs fail as real ones do, with exact masks.

Only its small face identifies a species. Its body is much larger and shares its looks with all species. Backgrounds
correlate with species, several creatures share an image, and there are untagged things.
"""

from tag2mask.synthetic.composition import Scene, render_scene
from tag2mask.synthetic.settings import SceneSettings
from tag2mask.synthetic.species import SPECIES, Species
from tag2mask.synthetic.writer import class_names, write_scenes

__all__ = ["SPECIES", "Scene", "SceneSettings", "Species", "class_names", "render_scene", "write_scenes"]
