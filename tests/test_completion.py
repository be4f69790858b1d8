"""The script of `tag2mask completion`, asked by a real bash."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tag2mask.cli import main


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)

    def completed(*words: str) -> set[str]:
        asked = f"COMP_WORDS=(tag2mask {' '.join(words)}); COMP_CWORD={len(words)}; _shtab_tag2mask"
        program = f'source {script}; {asked}; echo "${{COMPREPLY[@]}}"'
        return {*subprocess.run(["bash", "-c", program], capture_output=True, text=True).stdout.split()}

    assert completed("ev") == {"evaluate"}
    assert completed("refine", "runs/mine", "--refine.meth") == {"--refine.method"}
    assert completed("run", "--refine.method", "''") == {"argmax", "crf", "irn", "irn+crf", "proposals"}
    assert not completed("refine", "runs/mine", "--train.st"), "refine does not read it"


def test_other_shells_get_a_script_too(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("zsh", "tcsh"):
        assert main(["completion", shell]) == 0
        assert "tag2mask" in capsys.readouterr().out
    assert main(["completion", "fish"]) == 2
    assert "needs one of 'bash', 'zsh', 'tcsh', got 'fish'" in capsys.readouterr().err
