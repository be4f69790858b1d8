"""Generated scenes: photographs of made-up creatures whose CAMs fail as real ones do, with exact masks.

A species is told apart by its small face alone. Its body is much larger, has several looks at once, and shares them
with all species. Backgrounds go with species, creatures come in company, and things lie about that no tag names.
"""

from tag2mask.scenes.composition import Scene, render_scene
from tag2mask.scenes.settings import SceneSettings
from tag2mask.scenes.species import SPECIES, Species
from tag2mask.scenes.writer import class_names, write_scenes

__all__ = ["SPECIES", "Scene", "SceneSettings", "Species", "class_names", "render_scene", "write_scenes"]
