"""The prompts of the classes and of the background, from built-in vocabularies or a YAML file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from tag2mask.core.errors import UsageError, first_five
from tag2mask.core.files import read_yaml
from tag2mask.data.classes import did_you_mean, folded_name

_KEYS = ("template", "classes", "background")

Words = str | tuple[str, ...]
"""The words of a class: one text, with synonyms separated by spaces or commas, or several phrases."""


@dataclass(frozen=True)
class Prompts:
    """The prompts.

    Source: CLIP-ES for the template and the words of VOC and COCO.
    """

    template: str  # a sentence with ``{}`` for the words of a class
    prompts: tuple[Words, ...]  # C, of the classes
    background: tuple[str, ...]
    notices: tuple[str, ...] = field(default=(), compare=False)  # one sentence for each dropped word

    def sentences(self) -> list[list[str]]:
        """The sentences of each class, one for each of its phrases, then the sentence of each background word."""
        words = [[own] if isinstance(own, str) else own for own in (*self.prompts, *self.background)]
        return [[self.template.format(phrase) for phrase in own] for own in words]

    def phrases(self) -> tuple[list[int], list[str]]:
        """Every phrase and synonym of the classes alone, without the template: the class of each, and the phrases."""
        split = [words.split(",") if isinstance(words, str) else words for words in self.prompts]
        kept = [(place, phrase.strip()) for place, own in enumerate(split) for phrase in own if phrase.strip()]
        if lacking := {*range(len(self.prompts))} - {place for place, _ in kept}:
            raise UsageError(
                f"seeds.prompts: no words for {first_five(str(self.prompts[place]) for place in sorted(lacking))}"
            )
        return [place for place, _ in kept], [phrase for _, phrase in kept]


def read_prompts(source: str | None, classes: Sequence[str]) -> Prompts:
    """The prompts for a list of classes.

    A class that is not in the source gets its name. A background word that is also the name or a synonym of a class is
    dropped with a notice.

    Args:
        source: `voc`, `coco`, or a YAML file with ``template``, ``classes`` (name: words) and ``background`` (a list),
            all optional; None takes the template and the background words of `voc`.

    Raises:
        UsageError: the file is missing, is not YAML, or has an unknown key or class, or a wrong template.
    """
    standard = _read(_builtin("voc"))
    if source is None:
        values: Mapping[str, Any] = {}
    elif source in builtin_names():
        values = _read(_builtin(source))
    else:
        values = _read(Path(source))
        _check_classes(source, values, classes)
    own = {folded_name(name): words for name, words in values.get("classes", {}).items()}
    prompts: tuple[Words, ...] = tuple(own.get(folded_name(name), name.replace("_", " ")) for name in classes)
    taken = {folded_name(name): name for name in classes}
    for name, words in zip(classes, prompts, strict=True):
        taken |= {folded_name(each): name for each in (words.split(",") if isinstance(words, str) else words)}
    listed = values.get("background", standard["background"])
    notices = tuple(
        f"background word '{word}' also stands for class '{taken[folded_name(word)]}' and is dropped"
        for word in listed
        if folded_name(word) in taken
    )
    background = tuple(dict.fromkeys(word for word in listed if folded_name(word) not in taken))
    return Prompts(str(values.get("template", standard["template"])), prompts, background, notices)


def builtin_names() -> tuple[str, ...]:
    """The names of the built-in vocabularies."""
    return tuple(sorted(path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml")))


def _folder() -> Path:
    return Path(str(resources.files("tag2mask.cams.clip") / "vocabularies"))


def _builtin(name: str) -> Path:
    return _folder() / f"{name}.yaml"


def _read(path: Path) -> dict[str, Any]:
    """The values of a file of words, checked."""
    where = f"seeds.prompts: {path}"
    if not path.is_file():
        raise UsageError(f"{where} does not exist; give {', '.join(builtin_names())}, or a YAML file of words")
    try:
        values = read_yaml(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{where} could not be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise UsageError(f"{where} should hold {', '.join(_KEYS)}")
    unknown = [str(key) for key in values if key not in _KEYS]
    if unknown:
        raise UsageError(f"{where} holds {first_five(unknown)}; it may hold {', '.join(_KEYS)}")
    values = {key: value for key, value in values.items() if value is not None}
    if not isinstance(values.get("classes", {}), dict):
        raise UsageError(f"{where}: `classes` should be lines of `name: words`")
    given = {name: words for name, words in values.get("classes", {}).items() if words is not None}
    values["classes"] = {name: tuple(words) if words and _are_words(words) else words for name, words in given.items()}
    strange = [
        f"{name}: {words}"
        for name, words in values["classes"].items()
        if not _are_words([name, *words] if isinstance(words, tuple) else [name, words])
    ]
    if strange:
        raise UsageError(
            f"{where}: words should be texts, or lists of texts; put these in quotes: {first_five(strange)}"
        )
    if not _are_words(values.get("background", [])):
        raise UsageError(f"{where}: `background` should be a list of words; put yes, no and numbers in quotes")
    template = values.get("template", "{}")
    if not isinstance(template, str) or template.count("{}") != 1 or len(re.findall(r"[{}]", template)) != 2:
        raise UsageError(f"{where}: `template` should be a sentence with {{}} once, where the words of a class go")
    return values


def _are_words(value: object) -> bool:
    """Whether it is a list of texts; YAML reads yes, no and numbers as other types."""
    return isinstance(value, list) and all(isinstance(word, str) and word.strip() for word in value)


def _check_classes(source: str, values: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Refuse classes of the user's file that the data set does not have."""
    known = {folded_name(name) for name in classes}
    strange = [str(name) for name in values.get("classes", {}) if folded_name(str(name)) not in known]
    if strange:
        hint = did_you_mean(strange[0], classes)
        raise UsageError(
            f"seeds.prompts: {source} has words for {first_five(strange)}, which this data set does not have{hint}; "
            "remove the line, or correct the name"
        )
