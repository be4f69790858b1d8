"""The README's Python runs; test_docs.py looks at its commands."""

import re
from pathlib import Path

import pytest

from tag2mask.networks import NetworkSettings, build_network, save_network

README = Path(__file__).parent.parent / "README.md"


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = build_network(NetworkSettings(backbone="resnet18", weights="none"), ("cat", "dog"), seed=0)
    save_network(tmp_path / "runs/mine/train/network.safetensors", network)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    result = names["result"]
    assert tuple(result.cams.shape) == (1, 3, 14, 20)
    assert tuple(result.plan.shape) == (1, 280, 6)
    assert tuple(result.allocation.shape) == (1, 14, 20)
