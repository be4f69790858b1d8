"""`check`: is the data sound?"""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tag2mask.data.check import CheckReport, check
from tag2mask.data.photos import PhotoSet, open_photos
from tag2mask.data.settings import DataSettings
from tag2mask.pipeline.config import Config
from tag2mask.pipeline.corrections import data_of
from tag2mask.pipeline.progress import progress_bar


def check_data(config: Config, place: Path, console: Console) -> CheckReport:
    """Check the photographs in a folder, or those that a tags table names.

    Args:
        config: whose data settings apply; their root, or their table, is replaced by ``place``.
        place: a folder, or a CSV file.
        console: for progress.
    """
    data = _data_at(config, place)
    with progress_bar(console, "check", 100) as advance:  # in per cent: how many there are shows only on the way
        return check(
            data, progress=lambda done, total: advance(100 * done // max(total, 1), f"{done} of {total} photographs")
        )


def checked_photos(config: Config, place: Path) -> PhotoSet:
    """The photographs that `check_data` checks.

    Raises:
        UsageError: the data set is unusable; the check lists why.
    """
    return open_photos(_data_at(config, place))


def _data_at(config: Config, place: Path) -> DataSettings:
    """The data settings with their root, or their table, replaced."""
    data = data_of(config, config.out)
    return replace(data, tags=place) if place.is_file() else replace(data, root=place)
