"""What is known of a trained network survives its manifest, and says the size to run it at."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from detectctl.colours import printable
from detectctl.engine.families import describe
from detectctl.engine.trained import MOST_NAME, Head, Trained
from detectctl.errors import CheckpointRefused

MODELS = (
    Trained({0: "disc", 1: "disc"}, Head(strides=(8, 16, 32)), (384, 640), task="segment"),
    Trained({0: ""}, Head("queries", one_to_one=True), channels=1),
    Trained({0: "person"}, Head(strides=(8, 16, 32, 64), one_to_one=True), task="pose", keypoints=(17, 3)),
)


@pytest.mark.parametrize("trained", MODELS)
def test_a_description_survives_json(trained: Trained) -> None:
    assert Trained.from_json(json.loads(json.dumps(asdict(trained)))) == trained


@pytest.mark.parametrize(
    ("trained", "longest", "size"),
    [
        (MODELS[0], None, (384, 640)),
        (MODELS[0], 700, (704, 704)),
        (MODELS[1], None, (640, 640)),
        (MODELS[2], 700, (704, 704)),
        (MODELS[2], None, (640, 640)),
        (Trained({0: "cat"}, Head("image"), task="classify"), None, (224, 224)),
        (Trained({0: "cat"}, Head("image"), (90, 100), task="classify"), None, (96, 128)),
    ],
)
def test_a_network_runs_at_the_size_it_was_trained_at_or_at_the_usual_one(
    trained: Trained, longest: int | None, size: tuple[int, int]
) -> None:
    """In whole strides, of which the least is 32."""
    assert trained.size(longest) == size


@pytest.mark.parametrize(
    "name",
    [
        "диск",
        "قضيب",
        "نیم\u200cشب",
        "三角形\u3000",
        "e\u0301",
        "👩\u200d🚒",
        "🏴\U000e0067\U000e0062\U000e007f",
        "5\u00a0m",
        "",
        "\U0001fadc",
    ],
)
def test_names_in_any_script_stay_as_they_are(name: str) -> None:
    """With joiners, combining accents, wide spaces, and letters that are newer than this Python."""
    assert printable(name) == name


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\nb", "a\x85b", "a\u2028b", "a\u202eb", "a\u2066b", "a\ud800b"])
def test_what_a_terminal_obeys_is_replaced(name: str) -> None:
    assert len(printable(name)) == len(name)
    assert printable(name).startswith("a?")


def test_long_names_are_bounded_but_not_at_a_sentence() -> None:
    sentence = "a person with a red helmet " * 10
    assert printable(sentence, MOST_NAME) == sentence
    assert len(printable(sentence * 10, MOST_NAME)) == MOST_NAME


@pytest.mark.parametrize(
    ("strides", "imgsz", "why"),
    [
        ((8, 16, 0), 64, "strides (8, 16, 0)"),
        ((8, 16, -32), 64, "strides"),
        ((8, 16, 1 << 20), 64, "strides"),
        ((8, 16, float("nan")), 64, "NaN"),
        ((8, 16, 32), 0.5, "imgsz 0.5"),
        ((8, 16, 32), 1 << 20, "imgsz 1048576"),
        ((8, 16, 32), [64, -64], "imgsz"),
    ],
)
def test_a_checkpoint_whose_sizes_cannot_be_is_refused(strides: tuple[float, ...], imgsz: Any, why: str) -> None:
    """Or every picture would be made so large, or divided by nothing."""

    class Detect(SimpleNamespace):
        """Known by its name."""

    model = SimpleNamespace(model=[Detect(nc=1, stride=strides)], names=["a"], yaml={})
    with pytest.raises(CheckpointRefused) as caught:
        describe(model, {"imgsz": imgsz})
    assert why in str(caught.value.why)


def test_a_name_is_found_without_the_spaces_around_it() -> None:
    """`--conf` and queries lose them, and a label may have some."""
    trained = Trained({0: " bus", 1: "big bus "}, Head())
    assert [trained.ids(name) for name in ("bus", " bus", "big bus", "bigbus")] == [[0], [0], [1], []]


def test_a_few_classes_are_all_named() -> None:
    few = Trained(dict(enumerate("abc")), Head())
    assert few.nearest("d") == "its classes are 'a', 'b', 'c'"
    assert Trained({0: "disc"}, Head()).nearest("d") == "its only class is 'disc'"


def test_of_very_many_classes_the_nearest_is_found_in_a_moment() -> None:
    """By CPU time, against one for each of a thousand: open-vocabulary models name theirs by sentences."""

    def seconds(classes: int) -> float:
        labels = {
            number: f"{chr(97 + number % 26)} person with helmet number {number} " * 3 for number in range(classes)
        }
        trained, begun = Trained(labels | {classes: "zebra"}, Head()), time.process_time()
        assert trained.nearest("zebr") == f"the nearest of its {classes + 1} classes is 'zebra'"
        return time.process_time() - begun

    assert seconds(26_000) < 10 * seconds(1000)


def test_a_name_is_found_however_its_accents_are_written() -> None:
    """Files made on macOS part them from their letters; keyboards do not."""
    trained = Trained({0: "e\u0301te\u0301", 1: "\u00e9t\u00e9", 2: "ete"}, Head(strides=(8, 16, 32)))
    assert trained.ids("\u00e9t\u00e9") == trained.ids("e\u0301te\u0301") == [0, 1]
    assert trained.ids("ete") == [2]
