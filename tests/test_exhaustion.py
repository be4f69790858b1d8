"""Small files that would fill the memory or never end: each gets a line before it can."""

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model

from clip_tiny import load_clip, tiny_folder, tiny_model
from hostile_case import bounded
from run_tiny import Capture, run
from tag2mask.cams.clip.prompts import read_prompts
from tag2mask.cli import main
from tag2mask.core.errors import Tag2maskError, UsageError
from tag2mask.data.cam_files import read_record
from tag2mask.data.classes import read_classes
from tag2mask.data.images import read_image, read_mask
from tag2mask.networks import NetworkSettings, build_backbone
from tag2mask.networks.backbones.converters import read_mxnet_params
from tag2mask.quality.features import stored_features
from tag2mask.training.checkpointing import load_state

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
"""YAML of a kilobyte that stands for 10^11 values."""

ALIAS = r"line 2 has the alias \*a0, which is not read; repeat the value"


def test_aliases_in_settings_are_refused(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "own.yaml").write_text(f"{LAUGHS}seed: *a11\n")
    with bounded():
        assert main(["check", str(scenes), "--config", str(tmp_path / "own.yaml")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path}/own.yaml could not be read (line 2 has the alias *a0, which is not read; " in said
    assert run("train", scenes, tmp_path / "out") == 0
    settings = tmp_path / "out/config.yaml"
    settings.write_text(f"{settings.read_text()}{LAUGHS}")
    for verb in ("cams", "report"):
        with bounded():
            assert main([verb, str(tmp_path / "out")]) == 2
        assert "has the alias *a0, which is not read" in " ".join(capsys.readouterr().err.split())


def test_aliases_in_what_settings_name_are_refused(scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "inner.yaml").write_text(LAUGHS)
    for value in (str(tmp_path / "inner.yaml"), LAUGHS):  # the parser reads both as YAML
        (tmp_path / "own.yaml").write_text(json.dumps({"train": value}))
        with bounded():
            assert main(["check", str(scenes), "--config", str(tmp_path / "own.yaml")]) == 2
        assert "line 2 has the alias *a0, which is not read" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("value", ["!!int", "!!bool x", "!!timestamp x", f"{':'.join(['1'] * 9999)}.5", "[" * 900])
def test_yaml_that_its_library_cannot_read_is_named(value: str, scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "own.yaml").write_text(f"seed: {value}\n")
    assert main(["check", str(scenes), "--config", str(tmp_path / "own.yaml")]) == 2
    assert f"the settings of {tmp_path}/own.yaml could not be read (" in " ".join(capsys.readouterr().err.split())


def test_aliases_in_words_and_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text(f"{LAUGHS}background: *a11\n")
    with bounded(), pytest.raises(UsageError, match=rf"words\.yaml could not be read as YAML \({ALIAS}\)"):
        read_prompts(str(tmp_path / "words.yaml"), ("cat",))
    (tmp_path / "classes.yaml").write_text("- &a0 [cat, dog]\n- *a0\n")
    with bounded():
        classes, (problem,) = read_classes(str(tmp_path / "classes.yaml"))
    assert classes is None and "line 2 has the alias *a0" in str(problem)


def test_a_long_class_list_ends(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("".join(f"name{number}\n" for number in range(300_000)))
    with bounded():
        classes, problems = read_classes(str(tmp_path / "classes.txt"))
    assert classes is not None and len(classes) == 300_000 and not problems


def _rezipped(content: bytes, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip with other contents of its members."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", method) as new:
        for member in old.infolist():
            new.writestr(member.filename, change(member.filename, old.read(member)))
    return file.getvalue()


@cache
def _bomb() -> bytes:
    """A file of torch whose tensor is compressed to a two-hundredth."""
    saved, packed = io.BytesIO(), io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(3)}, saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for member in old.infolist():
            if not member.filename.endswith("data/0"):
                new.writestr(member.filename, old.read(member))
                continue
            with new.open(member.filename, "w", force_zip64=True) as file:
                for _ in range(1 << 12):
                    file.write(bytes(1 << 20))
    return packed.getvalue()


def _compressed(path: Path) -> None:
    path.write_bytes(_bomb())


def _followed(path: Path) -> None:
    """The same file and the beginning of another mark of an end: zipfile then finds no end, and torch does."""
    path.write_bytes(_bomb() + b"PK\5\6")


def _claiming(path: Path) -> None:
    """A file of torch whose tensor claims more numbers than the file holds."""
    saved = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(3)}, saved)
    many = b"J" + (1 << 30).to_bytes(4, "little")
    claim = lambda data: data.replace(b"K\x03Q", many + b"Q").replace(b"K\x03\x85", many + b"\x85")  # noqa: E731
    path.write_bytes(_rezipped(saved.getvalue(), lambda name, data: claim(data) if name.endswith("data.pkl") else data))


def _old_format(path: Path) -> None:
    """The format before zip, whose header claims a storage of a terabyte."""
    saved = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(3)}, saved, _use_new_zipfile_serialization=False)
    content = saved.getvalue()
    changed = content.replace(b"K\x03Nt", b"\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"Nt")
    assert changed != content
    path.write_bytes(changed)


HOSTILE_WEIGHTS = {
    "compressed.pth": (_compressed, "its entries would take"),
    "followed.pth": (_followed, "File is not a zip file"),
    "claiming.pth": (_claiming, "could not be read as a file of weights"),
    "old.pth": (_old_format, "was not read; it has .* out of memory|could not be read as a file of weights"),
}


@pytest.mark.parametrize("name", HOSTILE_WEIGHTS)
def test_weights_that_claim_more_than_they_hold(name: str, tmp_path: Path) -> None:
    write, line = HOSTILE_WEIGHTS[name]
    path = tmp_path / name
    write(path)
    with bounded(), pytest.raises(Tag2maskError, match=line) as caught:
        build_backbone(NetworkSettings(backbone="resnet18", weights=str(path)))
    assert str(path) in str(caught.value) and "weights_only" not in str(caught.value)


CHANGES = [lambda value: value.to("meta"), torch.Tensor.to_sparse, torch.Tensor.cfloat]


@pytest.mark.parametrize("change", CHANGES, ids=["meta", "sparse", "complex"])
def test_tensors_without_plain_numbers_are_named(
    change: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    state = build_backbone(NetworkSettings(backbone="resnet18", weights="none")).state_dict()
    torch.save(state | {"conv1.weight": change(state["conv1.weight"])}, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=r"should hold dense tensors of real numbers; other: conv1\.weight"):
        build_backbone(NetworkSettings(backbone="resnet18", weights=str(tmp_path / "weights.pth")))


@pytest.mark.parametrize("name", ["compressed.pth", "claiming.pth"])
def test_a_state_that_claims_more_than_it_holds(name: str, tmp_path: Path) -> None:
    HOSTILE_WEIGHTS[name][0](tmp_path / "state.pt")
    with bounded(), pytest.raises(Tag2maskError, match=r"state\.pt is not a readable resume state"):
        load_state(tmp_path / "state.pt")


def test_code_in_weights_is_refused_without_torchs_advice(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Path}, tmp_path / "code.pth")
    with pytest.raises(UsageError, match="it holds something else than tensors, numbers and text") as caught:
        build_backbone(NetworkSettings(backbone="resnet18", weights=str(tmp_path / "code.pth")))
    Dinov2Model(Dinov2Config(**TINY)).save_pretrained(tmp_path / "model")
    (tmp_path / "model/model.safetensors").unlink()
    torch.save({"embeddings.cls_token": Path, "filler": torch.zeros(100_000)}, tmp_path / "model/pytorch_model.bin")
    with pytest.raises(UsageError, match="it holds something else than tensors") as also:
        build_backbone(NetworkSettings(backbone=str(tmp_path / "model")))
    assert "weights_only" not in str(caught.value) + str(also.value)


TINY = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 28, "mlp_ratio": 2}
CONFIGURATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "deep": ({"num_hidden_layers": 10**6}, "says num_hidden_layers 1000000, at most 1000 in all are allowed"),
    "wide": ({"hidden_size": 10**9}, "says hidden_size 1000000000, at most 1048576 are allowed"),
    "wide within the range": ({"hidden_size": 1 << 19}, "parameters, at most"),
    "deep in parts": ({"model_type": "swin", "depths": [400, 400, 400, 400]}, "says depths .*, at most 1000 in all"),
    "nested": ({"text_config": {"num_layers": 10**7}}, "says num_layers 10000000"),
    "a number of 400 digits": ({"patch_size": 10**400}, "says patch_size 1000"),
}


@pytest.mark.parametrize("weights", ["imagenet", "none"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_models_that_no_memory_holds_are_refused(name: str, weights: str, tmp_path: Path) -> None:
    changes, line = CONFIGURATIONS[name]
    Dinov2Model(Dinov2Config(**TINY)).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | changes))
    with bounded(), pytest.raises(UsageError, match=line):
        build_backbone(NetworkSettings(backbone=str(tmp_path), weights=weights))


def test_compressed_weights_of_a_model_are_refused(tmp_path: Path) -> None:
    Dinov2Model(Dinov2Config(**TINY)).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    _compressed(tmp_path / "pytorch_model.bin")
    with bounded(), pytest.raises(UsageError, match=r"pytorch_model\.bin could not be read .*its entries would take"):
        build_backbone(NetworkSettings(backbone=str(tmp_path)))


def test_a_clip_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "clip", tiny_model())
    values = json.loads((folder / "config.json").read_text())
    for part, changes, line in (
        ("vision_config", {"num_hidden_layers": 10**6}, "at most 1000 in all"),
        ("text_config", {"hidden_size": 1 << 19}, "parameters, at most"),
    ):
        changed = {**values, part: {**values[part], **changes}}
        (folder / "config.json").write_text(json.dumps(changed))
        with bounded(), pytest.raises(UsageError, match=line):
            load_clip(str(folder))


def test_params_of_many_names_end(tmp_path: Path) -> None:
    """Duplicates among 200,000 names are found in one pass."""
    count = 200_000
    array = struct.pack("<IIIii", 1, 1, 1, 0, 0) + bytes(4)
    names = b"".join(struct.pack("<Q", 8) + b"%08d" % number for number in range(count))
    content = struct.pack("<QQQ", 0x112, 0, count) + array * count + struct.pack("<Q", count) + names
    (tmp_path / "many.params").write_bytes(content)
    with bounded():
        assert len(read_mxnet_params(tmp_path / "many.params")) == count
    claimed = (
        struct.pack("<QQQ", 0x112, 0, 1) + struct.pack("<II", 0xF993FAC8, 1) + struct.pack("<qiii", 2**62, 1, 0, 0)
    )
    (tmp_path / "huge.params").write_bytes(claimed)
    with bounded(), pytest.raises(UsageError, match="it ends too early"):
        read_mxnet_params(tmp_path / "huge.params")


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0" + b"\xff" * 500 + b"ARROW1", bytes(4096)])
def test_a_damaged_manifest_is_written_again(content: bytes, scenes: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert run("train", scenes, out) == 0
    sound = (out / "data.arrow").read_bytes()
    (out / "data.arrow").write_bytes(content)
    with bounded():
        assert run("cams", scenes, out) == 0
    assert (out / "data.arrow").read_bytes() == sound


def test_a_header_of_safetensors_is_compared_with_the_file(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    for old, new in ((b'"shape":[3]', b'"shape":[3000000000]'), (b"[0,12]", b"[0,12000000000]")):
        changed = data[8:].replace(old, new)
        length = struct.unpack("<Q", data[:8])[0] + len(changed) - len(data[8:])
        (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", length) + changed)
        with bounded(), pytest.raises(UsageError, match=r"b\.safetensors could not be read as a file of weights"):
            build_backbone(NetworkSettings(backbone="resnet18", weights=str(tmp_path / "b.safetensors")))


def test_pipes_in_place_of_files_are_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "one"
    os.mkfifo(path)
    with bounded():
        for read in (read_image, read_mask):
            with pytest.raises(Tag2maskError, match=r"one: .*it is a pipe instead of a file"):
                read(path)
        assert read_record(path) is None and stored_features(path) is None
