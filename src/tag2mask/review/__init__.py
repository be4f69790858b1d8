"""Masks and tags looked at and corrected by people, in a page that is served to this machine alone.

Flask serves the page: it is small, well kept, and knows everything that a local server needs; werkzeug's threaded
server is part of it. The page itself is plain JavaScript modules that need no build step and no network.
"""

from tag2mask.review.desk import Desk
from tag2mask.review.photographs import reviewed_photos
from tag2mask.review.server import Server

__all__ = ["Desk", "Server", "reviewed_photos"]
