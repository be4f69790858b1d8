"""tag2mask: from images and their tags to pixel masks, by prototypical optimal transport."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tag2mask.api import Prediction, Predictor, Run, RunImage, load, masks, run

__all__ = ["Prediction", "Predictor", "Run", "RunImage", "load", "masks", "run"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the Python interface when it is asked for: `import tag2mask` stays light."""
    if name in __all__:
        return getattr(import_module("tag2mask.api"), name)
    raise AttributeError(f"module 'tag2mask' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The Python interface, also before it is imported."""
    return [*__all__, "__version__"]
