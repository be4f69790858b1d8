"""What several test files share: the real data, where it is at hand."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with `data/` and `weights/`, from the environment variable TAG2MASK_DATA; skips without it."""
    folder = os.environ.get("TAG2MASK_DATA")
    if not folder or not (Path(folder) / "data" / "voc-animals").is_dir():
        pytest.skip("TAG2MASK_DATA does not name a folder with data/voc-animals and weights/")
    return Path(folder)


@pytest.fixture(autouse=True)
def _no_global_randomness() -> None:
    """Tests start from one state, so that a failure can be repeated."""
    torch.manual_seed(0)
