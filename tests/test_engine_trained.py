"""What is known of a trained network survives its manifest, and says the size to run it at."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from detectctl.engine.trained import Head, Trained

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
