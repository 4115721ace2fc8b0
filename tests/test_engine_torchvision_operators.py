"""torchvision is loaded for the checkpoints that name it, and for no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from detectctl.engine.torchvision_operators import prepare_torchvision
from detectctl.errors import ConversionFailed

FOLDER = Path(__file__).with_name("checkpoints")
WITHOUT_OPERATORS = """
import sys
from pathlib import Path
from detectctl.engine.torchvision_operators import prepare_torchvision
prepare_torchvision(Path(sys.argv[1]))
from torchvision.transforms import Compose, CenterCrop
import torch
assert Compose([CenterCrop(2)])(torch.zeros(3, 4, 6)).shape == (3, 2, 2)
print("torchvision" in sys.modules)
"""


def test_a_model_that_classifies_needs_torchvision_and_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ConversionFailed, match="without torchvision") as caught:
        prepare_torchvision(FOLDER / "v8-cls.pt")
    assert "pip install torchvision" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["v8", "v8-seg", "v8-pose", "26"])
def test_other_models_do_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    prepare_torchvision(FOLDER / f"{name}.pt")
    assert sys.modules["torchvision"] is None


@pytest.mark.slow
def test_what_a_checkpoint_names_of_it_works_whichever_way_it_was_built() -> None:
    """Its operators do not load beside a PyTorch of another build, and are not needed."""
    command = [sys.executable, "-c", WITHOUT_OPERATORS, str(FOLDER / "v8-cls.pt")]
    result = subprocess.run(command, capture_output=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [b"True"]
