"""Generated scenes of animals with exact masks, on which CAMs fail as on real images.

Only its small face identifies a species; the much larger body looks the same in all species. Backgrounds correlate
with species, a scene has several animals, and there are untagged objects.
"""

from tag2mask.synthetic.composition import Scene, render_scene
from tag2mask.synthetic.settings import SceneSettings
from tag2mask.synthetic.species import SPECIES, Species
from tag2mask.synthetic.writer import class_names, write_scenes

__all__ = ["SPECIES", "Scene", "SceneSettings", "Species", "class_names", "render_scene", "write_scenes"]
