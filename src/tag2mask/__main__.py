"""``python -m tag2mask``, as `torchrun` wants it."""

import sys

from tag2mask.cli import main

sys.exit(main())
