"""Review of masks and tags in a browser page, served by Flask to this machine only.

The page consists of plain JavaScript modules, without a build step or network access.
"""

from tag2mask.review.assist import Assistant
from tag2mask.review.image_list import reviewed_images
from tag2mask.review.server import Server
from tag2mask.review.session import Session

__all__ = ["Assistant", "Server", "Session", "reviewed_images"]
