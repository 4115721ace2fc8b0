"""What is known of a trained network survives its manifest, and says the size to run it at."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from detectctl.engine.trained import MOST_NAME, Head, Trained, printable

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


def test_a_name_is_found_however_its_accents_are_written() -> None:
    """Files made on macOS part them from their letters; keyboards do not."""
    trained = Trained({0: "e\u0301te\u0301", 1: "\u00e9t\u00e9", 2: "ete"}, Head(strides=(8, 16, 32)))
    assert trained.ids("\u00e9t\u00e9") == trained.ids("e\u0301te\u0301") == [0, 1]
    assert trained.ids("ete") == [2]
