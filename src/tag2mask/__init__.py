"""tag2mask: from photographs and their tags to pixel masks, by prototypical optimal transport."""

__version__ = "0.1.0"
