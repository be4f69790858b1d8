"""CLIP-ES against a slow version: class by class, backward by backward, with the dense affinity squared."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from clip_tiny import PATCH, load_clip, slow_boxes, slow_clip_es, slow_distribution_affinity, tiny_folder, tiny_model
from tag2mask.cams.clip import Clip, ClipCams, clip_cams, read_prompts
from tag2mask.cams.clip.clip_es import Affinity, box_masks, distribution_affinity, min_max_normalised
from tag2mask.cams.seed_models import text_ensembles
from tag2mask.core.errors import Tag2maskError, UsageError

GRIDS = ((5, 7), (4, 19), (1, 3), (6, 6), (19, 4))
"""(4, 19) and (19, 4) have 76 patches: with the class token as many tokens as CLIP's texts have."""


def unit_rows(rows: int, seed: int) -> Tensor:
    """Random texts."""
    return torch.nn.functional.normalize(torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed)), dim=1)


def images_of(grids: tuple[tuple[int, int], ...], seed: int = 0) -> list[Tensor]:
    """Random images, smooth enough to have regions."""
    generator = torch.Generator().manual_seed(seed)
    small = [torch.randn(1, 3, h + 1, w + 1, generator=generator) for h, w in grids]
    sizes = [(h * PATCH, w * PATCH) for h, w in grids]
    return [torch.nn.functional.interpolate(x, s, mode="bilinear")[0] for x, s in zip(small, sizes, strict=True)]


def tags_of(rows: list[list[int]], classes: int) -> Tensor:
    """Class numbers as a matrix."""
    tags = torch.zeros(len(rows), classes, dtype=torch.bool)
    for row, numbers in enumerate(rows):
        tags[row, numbers] = True
    return tags


TAGS = [[2], [0, 1, 2, 3, 4, 5], [1, 4], [], [5]]


@pytest.mark.parametrize(
    ("affinity", "activation", "rivals"),
    [
        ("caa", "quick_gelu", 4),
        ("caa", "gelu", 1),
        ("caa-published", "quick_gelu", 1),
        ("caa-published", "gelu", 4),
        ("cda", "quick_gelu", 4),
        ("cda", "gelu", 1),
    ],
)
def test_agrees_with_the_slow_version(
    affinity: Affinity, activation: str, rivals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tag2mask.cams.clip.clip_es.ATTENTION_BLOCKS", 3)
    model = tiny_model(0, activation=activation)
    texts, others, images = unit_rows(6, 1), unit_rows(rivals, 2), images_of(GRIDS)
    found = clip_cams(
        Clip(model),
        images,
        tags_of(TAGS, 6),
        texts,
        others,
        affinity=affinity,
    )
    flat = 0
    for image, classes, own, grid in zip(images, TAGS, found, GRIDS, strict=True):
        expected = slow_clip_es(model, image, classes, texts, others, 0.4, 3, affinity)
        assert own.labels == tuple(classes) and own.cams.shape == (len(classes), *grid)
        for number, slow in enumerate(expected):
            assert float(own.probability[number]) == pytest.approx(slow.probability, abs=1e-5)
            np.testing.assert_allclose(own.gradcams[number], slow.gradcam, rtol=0, atol=1e-5)
            np.testing.assert_allclose(own.cams[number], slow.cam, rtol=0, atol=1e-5)
            flat += slow.cam.max() == 0
    assert flat < 3, "most maps should hold something"


def test_a_class_that_the_model_is_sure_of_keeps_its_map() -> None:
    model = tiny_model(3)
    with torch.no_grad():
        model.logit_scale.fill_(8.0)  # cosines times 3,000: probabilities of 0 and 1, gradients of 0 in float32
    texts, others, images = unit_rows(6, 1), unit_rows(4, 2), images_of(GRIDS[:2])
    found = clip_cams(Clip(model), images, tags_of(TAGS[:2], 6), texts, others)
    probabilities = torch.cat([own.probability for own in found])
    assert (probabilities < 1e-30).any() and (probabilities == 1).any()
    assert all(own.gradcams.amax((1, 2)).allclose(torch.ones(len(own.labels))) for own in found)


def test_images_without_tags_and_classes_without_rivals() -> None:
    clip, texts, images = Clip(tiny_model(1)), unit_rows(6, 1), images_of(GRIDS[:2])
    none = clip_cams(clip, images, tags_of([[], []], 6), texts, unit_rows(4, 2))
    assert [own.cams.shape for own in none] == [(0, *GRIDS[0]), (0, *GRIDS[1])]
    (alone,) = clip_cams(clip, images[:1], tags_of([[3]], 6), texts, texts[:0])
    assert alone.probability.tolist() == [1.0] and float(alone.gradcams.max()) == 1
    assert alone.cams.isfinite().all()


@pytest.mark.parametrize("affinity", ["caa", "cda"])
def test_an_image_does_not_depend_on_its_batch(affinity: Affinity) -> None:
    clip, texts, others, images = Clip(tiny_model(1)), unit_rows(6, 1), unit_rows(4, 2), images_of(GRIDS)
    together = clip_cams(clip, images, tags_of(TAGS, 6), texts, others, affinity=affinity)
    for number, image in enumerate(images):
        (alone,) = clip_cams(clip, [image], tags_of(TAGS, 6)[number : number + 1], texts, others, affinity=affinity)
        torch.testing.assert_close(alone.cams, together[number].cams, rtol=0, atol=1e-5)


def test_class_distribution_affinity_in_chunks_and_of_sure_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 8 * torch.randn(2, 9, 5, generator=generator)
    logits[0, :3] = torch.tensor([900.0, 0, 0, 0, 0])  # probabilities of 0 and 1
    logits[0, 3] = torch.tensor([0, 900.0, 0, 0, 0])
    valid = torch.arange(9) < torch.tensor([[9], [6]])
    found = distribution_affinity(logits, valid)
    for own, shares, count in zip(found, logits.double().softmax(2).numpy(), (9, 6), strict=True):
        np.testing.assert_allclose(own[:count, :count], slow_distribution_affinity(shares[:count]), atol=1e-5)
        assert own[count:].sum() == own[:, count:].sum() == 0
    assert found[0, 0, 1] == found[0, 0, 0] and found[0, 0, 3] / found[0, 0, 0] == pytest.approx(2**-10, rel=1e-3)
    monkeypatch.setattr("tag2mask.cams.clip.clip_es._LARGEST_CHUNK", {"cpu": 200})
    torch.testing.assert_close(distribution_affinity(logits, valid), found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near(precision: str) -> None:
    texts, others, images = unit_rows(6, 1), unit_rows(4, 2), images_of(GRIDS[:2])
    tags = tags_of(TAGS[:2], 6)
    exact = clip_cams(Clip(tiny_model(3)), images, tags, texts, others)
    half = clip_cams(Clip(tiny_model(3)).precision(precision), images, tags, texts, others)  # type: ignore[arg-type]
    tolerance = 0.15 if precision == "bf16" else 0.02
    for one, other in zip(exact, half, strict=True):
        assert other.cams.isfinite().all()
        assert float((one.gradcams - other.gradcams).abs().mean()) < tolerance


def test_fp16_gradients_do_not_underflow() -> None:
    """The scale that a float16 gradient of the probability loses: maps are as in float32."""
    model = tiny_model(3)
    with torch.no_grad():
        model.logit_scale.fill_(5.5)
    texts, others, images = unit_rows(6, 1), unit_rows(4, 2), images_of(GRIDS[:2])
    tags = tags_of(TAGS[:2], 6)
    exact = clip_cams(Clip(model), images, tags, texts, others)
    assert any((own.probability * (1 - own.probability) < 6e-8).any() for own in exact), "below float16's smallest"
    half = clip_cams(Clip(model).precision("fp16"), images, tags, texts, others)
    for one, other in zip(exact, half, strict=True):
        torch.testing.assert_close(one.gradcams, other.gradcams, rtol=0, atol=0.1)


def test_boxes_by_hand() -> None:
    cam = torch.zeros(4, 5)
    cam[0, 0], cam[1, 1], cam[3, 4], cam[0, 4] = 1.0, 0.8, 0.9, 0.3
    mask = box_masks(cam.view(1, -1), [(4, 5)], 0.4).view(4, 5).int().tolist()
    assert mask == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    published = box_masks(cam.view(1, -1), [(4, 5)], 0.4, cut=True).view(4, 5).int().tolist()
    assert published == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert not box_masks(torch.zeros(1, 20), [(4, 5)], 0.4).any()


def test_boxes_are_those_of_the_published_levels() -> None:
    rng = np.random.default_rng(0)
    for number in range(800):
        shape = tuple(rng.integers(5, 30, 2).tolist())
        raw = rng.random(shape, dtype=np.float32) * np.float32(10.0 ** rng.integers(-2, 3))
        raw = gaussian_filter(raw, 1.5) if number % 2 else raw
        threshold, quirk = (0.4, 0.7)[number // 2 % 2], bool(number // 4 % 2)
        cam = min_max_normalised(torch.from_numpy(raw).view(1, -1), torch.ones(1, raw.size, dtype=torch.bool))
        found = box_masks(cam, [shape], threshold, cut=quirk).view(shape)
        np.testing.assert_array_equal(found, slow_boxes(raw, threshold, quirk), err_msg=f"map {number}")


def test_ranges_leave_padding_and_flat_maps_at_zero() -> None:
    maps = torch.tensor([[2.0, 4.0, 3.0, 9.0], [1.0, 1.0, 1.0, 9.0]])
    valid = torch.tensor([True, True, True, False]).expand(2, 4)
    assert min_max_normalised(maps, valid).tolist() == [[0, 1, 0.5, 0], [0, 0, 0, 0]]


def test_grids_round_up_and_large_images_are_reduced() -> None:
    clip = Clip(tiny_model())
    assert clip.grid((375, 500)) == (47, 63) and clip.grid((1, 9)) == (1, 2)
    assert clip.grid((3000, 4000), 320) == (30, 40) and clip.grid((100, 100), 320) == (13, 13)
    prepared = clip.prepare(np.full((20, 33, 3), 255, dtype=np.uint8))
    assert prepared.shape == (3, 24, 40)
    torch.testing.assert_close(prepared[0].mean(), torch.tensor((1 - 0.48145466) / 0.26862954))


def test_wrong_tags_are_refused() -> None:
    with pytest.raises(UsageError, match=r"bool \(1, 6\)"):
        clip_cams(
            Clip(tiny_model()),
            images_of(GRIDS[:1]),
            torch.zeros(2, 6, dtype=torch.bool),
            unit_rows(6, 1),
            unit_rows(1, 2),
        )
    assert (
        clip_cams(Clip(tiny_model()), [], torch.zeros(0, 6, dtype=torch.bool), unit_rows(6, 1), unit_rows(1, 2)) == []
    )


def test_loads_a_folder_and_reads_texts(tmp_path: Path) -> None:
    model = tiny_model()
    clip = load_clip(str(tiny_folder(tmp_path / "clip", model)))
    sentences = ["a clean origami cat.", "a clean origami person with clothes,people,human."]
    features = clip.text_features(sentences)
    batch = clip.tokenizer(sentences, padding=True, return_tensors="pt")
    expected = model.get_text_features(**batch).pooler_output
    torch.testing.assert_close(features, torch.nn.functional.normalize(expected, dim=1).detach())
    alone = clip.text_features(sentences[:1])
    torch.testing.assert_close(alone, features[:1], rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="longer than the 77 tokens"):
        clip.text_features(["word " * 60])
    images = images_of(GRIDS[:1])
    whole = clip_cams(clip, images, tags_of([[0]], 2), features, unit_rows(2, 1))
    assert isinstance(whole[0], ClipCams)


@pytest.mark.parametrize("lost", ["vocab.json", "merges.txt"])
def test_a_model_without_its_tokenizer_is_refused(lost: str, tmp_path: Path) -> None:
    """The library would give every text the same tokens."""
    folder = tiny_folder(tmp_path / "clip", tiny_model())
    (folder / lost).unlink()
    with pytest.raises(UsageError, match=r"has no tokenizer\.json and no vocab\.json and merges\.txt; add them"):
        load_clip(str(folder))


def test_a_cached_backbone_lacks_the_tokenizer_which_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub whose cache holds what `network.backbone` reads."""
    whole, cache = tiny_folder(tmp_path / "hub", tiny_model()), tmp_path / "cache"
    (whole / "preprocessor_config.json").write_text("{}")
    cache.mkdir()
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        shutil.copyfile(whole / name, cache / name)
    fetched: list[list[str]] = []

    def snapshot_download(_: str, *, allow_patterns: list[str] | None = None, local_files_only: bool = False) -> str:
        if allow_patterns:
            fetched.append(allow_patterns)
            for name in set(allow_patterns) - lost:
                shutil.copyfile(whole / name, cache / name)
        return str(cache)

    def model_info(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=each.name, size=9) for each in whole.iterdir()])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.model_info", model_info)
    lost = {"vocab.json"}
    with pytest.raises(UsageError, match=r"merges\.txt; fetch them with `hf download some/clip`"):
        load_clip("some/clip")
    for name in ("merges.txt", "tokenizer_config.json"):
        (cache / name).unlink()
    lost = set()
    load_clip("some/clip")
    assert sorted(fetched[-1]) == sorted(each.name for each in whole.iterdir()), "each file once"


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"seeds\.model should be a folder.*'nothing'"):
        load_clip("nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"seeds\.model: the folder .* has no config\.json"):
        load_clip(str(tmp_path / "empty"))
    folder = tiny_folder(tmp_path / "clip", tiny_model())
    (folder / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    with pytest.raises(UsageError, match="of type 'vit', it should be 'clip'"):
        load_clip(str(folder))
    folder = tiny_folder(tmp_path / "other", tiny_model())
    size = (folder / "model.safetensors").stat().st_size
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UsageError, match="parameters, at most 11 fit into the weights"):
        load_clip(str(folder))
    (folder / "model.safetensors").write_bytes(bytes(size))
    with pytest.raises(Tag2maskError, match=r"seeds\.model: .* could not be loaded"):
        load_clip(str(folder))


def test_words_of_voc_and_coco() -> None:
    voc = read_prompts("voc", ("bird", "person", "dog"))
    assert voc.prompts == ("bird avian", "person with clothes,people,human", "dog")
    assert len(voc.background) == 25 and voc.notices == ()
    assert voc.sentences()[0] == ["a clean origami bird avian."] and len(voc.sentences()) == 28
    assert voc.sentences()[1] == ["a clean origami person with clothes,people,human."]
    coco = read_prompts("coco", ("snowboard", "hair drier", "stop sign", "keyboard"))
    assert coco.prompts[:2] == ("snowboard", "hairdrier,blowdrier") and len(coco.background) == 23


def test_a_list_of_phrases_is_an_ensemble_and_a_text_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    words = "{rust: ['rusty metal, corroded', corrosion], moss: 'moss, lichen'}"
    file.write_text(f"template: a photo of {{}}\nclasses: {words}\n")
    clip = load_clip(str(tiny_folder(tmp_path / "clip", tiny_model())))
    prompts = read_prompts(str(file), ("rust", "moss"))
    assert prompts.phrases() == ([0, 0, 1, 1], ["rusty metal, corroded", "corrosion", "moss", "lichen"])
    texts, background = text_ensembles(clip, prompts)
    sentences = ["a photo of rusty metal, corroded", "a photo of corrosion", "a photo of moss, lichen"]
    one, two, whole = (clip.text_features([sentence])[0] for sentence in sentences)
    torch.testing.assert_close(texts, torch.stack([(one + two) / (one + two).norm(), whole]))
    assert len(background) == len(prompts.background) == 25


def test_a_background_word_that_is_a_class_is_dropped_with_a_notice() -> None:
    prompts = read_prompts(None, ("Tree", "stop sign", "house_plant"))
    assert prompts.prompts == ("Tree", "stop sign", "house plant")
    assert "tree" not in prompts.background and {"sign", "house", "sky"} <= set(prompts.background)
    assert prompts.notices == ("background word 'tree' also stands for class 'Tree' and is dropped",)


def test_words_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    file.write_text(
        "template: a photo of {}\nclasses:\n  rust: [rusty metal, corrosion]\n  crack:\n"
        "background: [sky, corrosion, sky]\n"
    )
    prompts = read_prompts(str(file), ("rust", "crack"))
    assert prompts.prompts == (("rusty metal", "corrosion"), "crack") and prompts.background == ("sky",)
    assert prompts.sentences() == [
        ["a photo of rusty metal", "a photo of corrosion"],
        ["a photo of crack"],
        ["a photo of sky"],
    ]
    assert prompts.phrases() == ([0, 0, 1], ["rusty metal", "corrosion", "crack"])
    assert len(prompts.notices) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: {rst: rusty}", "which this data set does not have; did you mean `rust`"),
        ("klasses: {}", "holds klasses; it may hold template, classes, background"),
        ("template: a photo", "should be a sentence with {} once"),
        ("template: a {} {x}", "should be a sentence with {} once"),
        ("background: sky", "should be a list"),
        ("background: [yes, sky]", "put yes, no and numbers in quotes"),
        ("classes: {rust: 3}", "words should be texts, or lists of texts; put these in quotes: rust: 3"),
        ("classes: {rust: []}", "words should be texts, or lists of texts; put these in quotes: rust: []"),
        ("classes: {rust: [rusty, no]}", "words should be texts, or lists of texts; put these in quotes: rust: "),
        ("classes: [rust]", "should be lines of `name: words`"),
        ("- 1", "should hold template, classes, background"),
        ("a: [", "could not be read as YAML"),
    ],
)
def test_bad_files_of_words_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "words.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"seeds\.prompts") as caught:
        read_prompts(str(file), ("rust",))
    assert message in str(caught.value)


def test_a_missing_file_of_words_is_refused() -> None:
    with pytest.raises(UsageError, match="does not exist; give coco, voc, or a YAML file"):
        read_prompts("words.yaml", ("rust",))
