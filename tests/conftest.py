"""What several test files share: the real data where it is at hand, and a tiny generated data set."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one core for each of the processes, and for those that they start
    os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import pytest
import torch
from selenium import webdriver

import forked
from review_page import page, served  # noqa: F401 - fixtures
from run_tiny import BACKBONE, run
from tag2mask.synthetic import SceneSettings, write_scenes

CHROMIUM_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1300,900",
)

LONGEST = (
    "test_interruption",
    "test_kills",
    "test_processes",
    "test_new_user",
    "test_published_networks",
    "test_segmentation_networks",
    "test_refine_stages",
    "test_run_verb",
)
"""Files that take more than half a minute; they go first, so that no process works at one of them alone at the end."""

hypothesis.settings.register_profile("any speed", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("any speed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with `data/` and `weights/`, from the environment variable TAG2MASK_DATA; skips without it."""
    folder = os.environ.get("TAG2MASK_DATA")
    if not folder or not (Path(folder) / "data" / "voc-animals").is_dir():
        pytest.skip("TAG2MASK_DATA does not name a folder with data/voc-animals and weights/")
    return Path(folder)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table data set of 10 training and 4 validation scenes of 2 classes, 64 px, with exact masks."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, SceneSettings(classes=2, size=64, train=10, val=4))
    return folder


@pytest.fixture(scope="session")
def done(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run over the scenes, for all files that have none of their own."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert run("run", scenes, out) == 0
    return out


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the tiny backbone and weights of its own, as if it had been trained elsewhere."""
    from transformers import AutoConfig, AutoModel

    folder = tmp_path_factory.mktemp("pretrained")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(AutoConfig.from_pretrained(BACKBONE)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A headless Chromium, 1300 × 900 pixels, which writes down what pages say to its console; skips without one."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("needs Chromium and chromedriver on the path")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*CHROMIUM_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield started
    started.quit()


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed."""
    return Path(shutil.copytree(done, tmp_path / "out"))


@pytest.fixture(autouse=True)
def _nothing_left_at_work() -> Iterator[None]:
    """A test that fails leaves no command behind."""
    yield
    forked.end_all()


@pytest.fixture(autouse=True)
def _no_global_randomness() -> None:
    """Tests start from one state, so that a failure can be repeated."""
    torch.manual_seed(0)
