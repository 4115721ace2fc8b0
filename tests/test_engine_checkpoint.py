"""A model that was saved in another way than usual is served as ever, or refused as what it is."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from argparse import Namespace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from detectctl.engine.checkpoint import refuse_at_sight
from detectctl.errors import CheckpointRefused

if TYPE_CHECKING:
    from collections.abc import Callable

Outcomes = dict[str, dict[str, Any]]

SAME = ("ema-only", "full-precision", "fused", "in-training")
REFUSED = {
    "compiled": ("more than a model", "OptimizedModule"),
    "parallel": ("more than a model", "DataParallel"),
    "old-format": ("PyTorch before 1.6", "keep code out"),
    "yolov5": ("of the YOLOv5 repository", "models.yolo.DetectionModel"),
    "script": ("not of Ultralytics' package alone", "__main__.MyModel"),
    "fork": ("not of Ultralytics' package alone", "my_fork.nn.BiFPN"),
    "super-gradients": ("not of Ultralytics' package alone", "YoloNAS_S"),
    "newer-class": ("newer Ultralytics, or of a fork", "ultralytics.nn.modules.block.C9k9"),
    "newer-module": ("newer Ultralytics, or of a fork", "ultralytics.nn.modules.later.Later"),
    "weights": ("weights without their model", "state dict"),
    "weights-in-order": ("weights without their model", "state dict"),
    "weights-as-model": ("weights without their model", "state dict"),
    "weights-as-ema": ("weights without their model", "state dict"),
    "layers": ("a kind that is not served", "a Sequential"),
    "nothing": ("no model of Ultralytics", "no layers at all"),
    "names-missing": ("a kind that is not served", "3 classes, and no name for 1"),
    "four-channels": ("a kind that is not served", "pictures of 4 channels"),
    "safetensors": ("not a checkpoint", "a safetensors file"),
    "hdf5": ("not a checkpoint", "an HDF5 file"),
    "page": ("not a checkpoint", "an HTML page"),
    "pointer": ("not a checkpoint", "a pointer of Git LFS"),
    "zipped": ("not a checkpoint", "run/weights/best.pt in it"),
    "array": ("not a checkpoint", "an array of NumPy"),
}
"""What is refused, with words of what it is and of why."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    folder = tmp_path_factory.mktemp("saved")
    script = str(Path(__file__).with_name("saved_otherwise.py"))
    safely = {"YOLO_OFFLINE": "1", "YOLO_CONFIG_DIR": str(folder), "ULTRALYTICS_SAFE_LOAD": "1"}
    command = [sys.executable, script, str(folder)]
    result = subprocess.run(command, env={**os.environ, **safely}, capture_output=True, timeout=300, check=True)
    return dict(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAME)
def test_whatever_way_it_was_saved_a_model_answers_the_same(outcomes: Outcomes, kind: str) -> None:
    """By either engine; what training saves after an epoch holds its optimiser, and the model as an average only."""
    assert sum(map(len, outcomes["original"]["torch"])) >= 20
    for engine, answer in outcomes[kind].items():
        assert answer == outcomes["original"][engine]


@pytest.mark.slow
def test_a_model_of_another_shape_than_square_answers_the_same_by_either_engine(outcomes: Outcomes) -> None:
    answers = outcomes["not-square"]
    for by_torch, by_openvino in zip(answers["torch"], answers["openvino"], strict=True):
        assert len(by_torch) == len(by_openvino)
        for one, other in zip(by_torch, by_openvino, strict=True):
            assert one["xyxy"] == pytest.approx(other["xyxy"], abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "names"),
    [("names-of-a-list", ["диск", "قضيب", "三角形🔺"]), ("names-by-text", ["disc", "disc", ""])],
)
def test_classes_keep_the_names_that_they_were_given(outcomes: Outcomes, kind: str, names: list[str]) -> None:
    """In any script, doubled or empty; by a list, numbers, or numbers as text."""
    objects = [one for found in outcomes[kind]["torch"] for one in found]
    assert {one["class_name"] for one in objects} == set(names)
    assert all(one["class_name"] == names[one["class_id"]] for one in objects)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kept"), [("one-class", {0}), ("thousand-classes", {0, 1, 2})])
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_one_class_or_a_thousand_make_no_difference(outcomes: Outcomes, kind: str, kept: set[int], engine: str) -> None:
    for found, expected in zip(outcomes[kind][engine], outcomes["original"][engine], strict=True):
        left = [one for one in expected if one["class_id"] in kept]
        assert [one["class_id"] for one in found] == [one["class_id"] for one in left]
        for one, other in zip(found, left, strict=True):
            assert one["xyxy"] == pytest.approx(other["xyxy"], abs=0.01)
            assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_served_is_refused_as_what_it_is(outcomes: Outcomes, kind: str) -> None:
    """With words of what it is and a way out, and never as an attack."""
    what, why = REFUSED[kind]
    for engine in ("torch", "openvino"):
        refusal = outcomes[kind][engine]
        assert what in refusal["what"]
        assert why in refusal["why"]
        assert "run code" not in refusal["what"]
        assert refusal["hint"]
        assert ("--trust-checkpoint" in refusal["hint"]) == (kind in {"compiled", "parallel", "old-format"})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["compiled", "old-format", "script"])
def test_trust_loads_what_can_be_loaded_and_no_more(outcomes: Outcomes, kind: str) -> None:
    if kind == "script":
        assert outcomes[kind]["trusted"] == outcomes[kind]["torch"]  # whose class is not here, trusted or not
    else:
        assert outcomes[kind]["trusted"] == outcomes["original"]["torch"]


class _Asks:
    """Unpickles to a call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return self._function, ("true",)


@pytest.mark.parametrize("content", [Namespace(lr=0.1), date(2026, 1, 2), {"kept": (b"x", bytearray(b"y"))}])
def test_what_scripts_keep_beside_a_model_is_not_called_an_attack(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointRefused) as caught:
        refuse_at_sight(path, trusted=False)
    assert "run code" not in caught.value.what


@pytest.mark.parametrize("beside", [Namespace(lr=0.1), "a later one"])
def test_code_is_not_hidden_by_what_is_beside_it(beside: Any, tmp_path: Path) -> None:
    """Nor in the second of several pickles in a row, as PyTorch before 1.6 wrote them."""
    path = tmp_path / "best.pt"
    path.write_bytes(pickle.dumps(beside, protocol=2) + pickle.dumps([_Asks(os.system), beside], protocol=2))
    with pytest.raises(CheckpointRefused, match="run code") as caught:
        refuse_at_sight(path, trusted=False)
    assert "posix.system" in str(caught.value.why)


def test_a_file_that_is_no_checkpoint_is_refused_also_where_it_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    path.write_text("<html><body>Sign in</body></html>")
    with pytest.raises(CheckpointRefused, match="not a checkpoint") as caught:
        refuse_at_sight(path, trusted=True)
    assert caught.value.why == "it is an HTML page"
