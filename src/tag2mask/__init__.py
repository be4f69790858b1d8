"""tag2mask: from images and their tags to pixel masks, by prototypical optimal transport."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tag2mask.prediction.predictor import Predictor, load

__all__ = ["Predictor", "load"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what prediction needs when it is asked for: `import tag2mask` stays light."""
    if name in __all__:
        from tag2mask.prediction import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'tag2mask' has no attribute {name!r}")
