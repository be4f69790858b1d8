"""What a run does when its data changed under it: clocks, images, tags, damaged files."""

import json
import os
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image

from run_tiny import Capture, files_of, run
from tag2mask.cams.clip.npy_files import NpyCams, write_npy_cams
from tag2mask.core.errors import Tag2maskError
from tag2mask.core.provenance import cam_origin, image_origin, is_of_image, mask_origin
from tag2mask.data import open_images
from tag2mask.data.cam_files import read_cam
from tag2mask.data.images import read_mask, write_mask
from tag2mask.data.settings import DataSettings
from tag2mask.training.checkpointing import load_state, save_state
from test_segment_stages import SEGMENT


@pytest.fixture(scope="module")
def made(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set of ten images with a table of tags, and a run over it up to its masks."""
    root = tmp_path_factory.mktemp("changed") / "data"
    copytree(scenes, root)
    out = root.parent / "out"
    for verb in ("train", "cams", "refine"):
        assert run(verb, root, out) == 0
    return root, out


@pytest.fixture
def data(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of both, with other times of writing."""
    for source in made:
        copytree(source, tmp_path / source.name)
    return tmp_path / "data", tmp_path / "out"


def cams_of(out: Path) -> list[Path]:
    return sorted((out / "cams/pot").rglob("*.npz"))


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def image_of(root: Path, cam: Path, out: Path) -> Path:
    return next((root / cam.relative_to(out / "cams/pot").parent).glob(f"{cam.stem}.*[gG]"))


def test_a_copy_of_the_data_makes_nothing_again(data: tuple[Path, Path]) -> None:
    root, out = data
    for path in root.rglob("*"):
        os.utime(path, (1, 1))
    before = times(out / "cams/pot") | times(out / "masks")
    assert run("cams", root, out) == run("refine", root, out) == 0
    assert times(out / "cams/pot") | times(out / "masks") == before


@pytest.mark.parametrize("clock", [1, 2_000_000_000])
def test_an_image_that_was_replaced_gets_new_cams_and_a_new_mask(data: tuple[Path, Path], clock: int) -> None:
    root, out = data
    cam = cams_of(out)[0]
    image = image_of(root, cam, out)
    with Image.open(image) as old:
        turned = old.transpose(Image.Transpose.ROTATE_180)
    turned.save(image)
    os.utime(image, (clock, clock))
    masks, origin = files_of(out / "masks"), cam_origin(cam)
    assert run("refine", root, out) == 1  # alone it cannot make the CAMs
    assert files_of(out / "masks") == masks
    assert run("cams", root, out) == 0
    assert cam_origin(cam) != origin and is_of_image(read_cam(cam).image, image, cam)
    os.utime(cam, (clock, clock))
    assert run("refine", root, out) == 0
    assert changed_masks(out, masks) == [str(cam.relative_to(out / "cams/pot").with_suffix(".png"))]


def retag(root: Path, before: str, after: str) -> None:
    """Change a line of the table."""
    table = root / "tags.csv"
    text = table.read_text()
    assert before in text
    table.write_text(text.replace(before, after))


def changed_masks(out: Path, before: dict[str, bytes]) -> list[str]:
    return [name for name, content in files_of(out / "masks").items() if content != before[name]]


def test_a_mask_is_made_again_without_a_tag_that_went(data: tuple[Path, Path]) -> None:
    root, out = data
    retag(root, "train/0003.jpg,dab;fen", "train/0003.jpg,fen")
    masks = files_of(out / "masks")
    assert run("refine", root, out) == 0
    assert changed_masks(out, masks) == ["train/0003.png"]
    assert set(np.unique(read_mask(out / "masks/train/0003.png"))) <= {0, 2, 255}


def test_refine_alone_names_images_with_new_tags(data: tuple[Path, Path], capsys: Capture) -> None:
    root, out = data
    retag(root, "train/0000.jpg,dab", "train/0000.jpg,dab;fen")
    masks = files_of(out / "masks")
    assert run("refine", root, out) == 1
    assert "train/0000: it has tags that its CAMs were not made with; run `tag2mask cams " in " ".join(
        capsys.readouterr().err.split()
    )
    assert files_of(out / "masks") == masks
    assert run("train", root, out) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "the existing network was trained on 10 images, and now some of them" in said
    assert run("cams", root, out) == run("refine", root, out) == 0
    assert changed_masks(out, masks) == ["train/0000.png"]


def test_a_training_is_not_gone_on_with_on_other_data(data: tuple[Path, Path], capsys: Capture) -> None:
    root, out = data
    (out / "train/network.safetensors").unlink()
    image = image_of(root, cams_of(out)[0], out)
    Image.new("RGB", (40, 40), "red").save(image)
    assert run("train", root, out) == 2
    assert "started on 10 images" in " ".join(capsys.readouterr().err.split())
    assert not (out / "train/network.safetensors").exists()
    assert run("train", root, out, restart="train") == 0
    (out / "train/network.safetensors").unlink()
    record = json.loads((out / "train/data.json").read_text())
    (out / "train/data.json").write_text(json.dumps({**record, "files": None}))  # one was out of reach
    assert run("train", root, out) == 0
    assert (out / "train/network.safetensors").is_file()
    (out / "train/network.safetensors").unlink()
    (out / "train/data.json").write_text("[]")
    assert run("train", root, out) == 1
    assert (
        "data.json could not be read as JSON (it holds a list instead of an object); --restart train starts again"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\0" * 100], ids=["empty", "torn", "zeros"])
def test_a_damaged_mask_is_made_again(data: tuple[Path, Path], content: bytes) -> None:
    root, out = data
    masks = files_of(out / "masks")
    (out / "masks" / sorted(masks)[0]).write_bytes(content)
    assert run("refine", root, out) == 0
    assert files_of(out / "masks") == masks


def test_a_mask_that_a_user_put_into_the_folder_stays(data: tuple[Path, Path]) -> None:
    root, out = data
    path = sorted((out / "masks").rglob("*.png"))[0]
    write_mask(path, 0 * read_mask(path))
    path.write_bytes(path.read_bytes() + b"\n")  # as some tools leave it
    assert mask_origin(path) == ""
    drawn = path.read_bytes()
    assert run("refine", root, out) == 0
    assert path.read_bytes() == drawn
    path.write_bytes(b"BM" + drawn)  # what reads masks names it
    assert run("refine", root, out) == 0
    assert path.read_bytes() == b"BM" + drawn


def test_base_cams_follow_their_images(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    root, out, npy = Path(copytree(scenes, tmp_path / "data")), tmp_path / "out", tmp_path / "npy"
    for item in open_images(DataSettings(root=root, split="train")).items:
        maps = np.random.default_rng(0).random((len(item.tags), 4, 4)).astype(np.float16)
        write_npy_cams(
            npy / f"{item.id}.npy", NpyCams(np.array(item.tags) - 1, np.repeat(maps, 16, 1).repeat(16, 2), maps)
        )
    options = {"seeds__from_npy": str(npy), "external__suppression": "0.5", "cams__kinds": "[pot,fused]"}
    assert run("run", root, out, **options) == 0
    before = files_of(out / "seeds")
    path = root / "train/0003.jpg"
    with Image.open(path) as old:
        turned = old.transpose(Image.Transpose.ROTATE_180)
    turned.save(path)
    assert run("cams", root, out, **options) == 1
    assert "0003.npz was made from another image; run `tag2mask seeds` first" in " ".join(
        capsys.readouterr().err.split()
    )
    assert run("seeds", root, out, **options) == 0
    changed = [name for name, content in files_of(out / "seeds").items() if content != before[name]]
    assert changed == ["train/0003.npz"]
    assert run("cams", root, out, **options) == 0
    assert is_of_image(read_cam(out / "cams/fused/train/0003.npz").image, path, path)


def test_predictions_follow_network_and_image(scenes: Path, tmp_path: Path) -> None:
    root, out = Path(copytree(scenes, tmp_path / "data")), tmp_path / "out"
    assert run("run", root, out, **SEGMENT) == 0
    before = times(out / "predictions/val")
    os.utime(out / "segment/network.safetensors", (2**31, 2**31))
    assert run("run", root, out, **SEGMENT) == 0
    assert times(out / "predictions/val") == before
    with Image.open(root / "val/0001.jpg") as old:
        turned = old.transpose(Image.Transpose.ROTATE_180)
    turned.save(root / "val/0001.jpg")
    assert run("run", root, out, **SEGMENT) == 0
    after = times(out / "predictions/val")
    assert [name for name in after if before[name] != after[name]] == ["val/0001.png"]


def test_flipped_bytes_of_a_resume_state_are_found(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"network": {"weight": torch.full((1000,), 1.5)}, "step": 2})
    assert load_state(path)["step"] == 2
    content = bytearray(path.read_bytes())
    place = content.index(np.full(8, 1.5, dtype=np.float32).tobytes()) + 41
    content[place] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(Tag2maskError, match=r"not a readable resume state.*--restart train starts again"):
        load_state(path)


def test_what_is_recorded_of_an_image(tmp_path: Path) -> None:
    image = tmp_path / "a.bin"
    image.write_bytes(b"one")
    recorded, made = image_origin(image), tmp_path / "made.bin"
    made.touch()
    assert recorded is not None and recorded.shape == (2,)
    assert is_of_image(recorded, image, made) and is_of_image(None, image, made)
    for time in (1, 2**32):
        os.utime(image, (time, time))
        assert is_of_image(recorded, image, made)
    other = tmp_path / "b.bin"
    other.write_bytes(b"two")
    os.utime(other, (1, 1))
    other.replace(image)  # an older file of the same size
    assert not is_of_image(recorded, image, made)
    image.write_bytes(b"longer")
    assert not is_of_image(recorded, image, made)
    image.unlink()
    assert image_origin(image) is None and is_of_image(recorded, image, made)
