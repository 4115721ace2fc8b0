"""What a replica is told: JSON data that travels in the Serve application's arguments."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from detectctl.engine.detector_settings import DetectorSettings
from detectctl.wire import ModelInfo

APPLICATION = "detectctl"
DEPLOYMENT = "Detector"
IMPORT_PATH = "detectctl.serving.app:build"
MAX_QUEUE = 64
"""Requests that one replica accepts at once: at 60 a second the last of them waits one second."""


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """Everything a replica needs; it resolves nothing by itself.

    Attributes:
        fingerprint: identifies this configuration; `/readyz` and `/info` repeat it.
        version: of detectctl; part of it so that an upgrade replaces the replicas.
        model: how answers name the model.
        detector: what the detector is made with.
        allow_url: hosts and networks that image URLs may lead to although they are not public.
        url_input: whether image URLs are accepted at all.
        api_key_file: path of the keys that are let in, never a key, because Serve's dashboard shows all this; None lets
            everybody in.
        own_host: the host that callers may name beside localhost and addresses; None lets them name any.
        cors_origin: web origins whose pages may ask, or `*`.
        docs: whether `/docs` and `/openapi.json` are there.
        max_queue: requests that one replica accepts at once; one more is answered 503.
        stats_dir: where replicas keep their counters; None keeps none.
    """

    fingerprint: str
    version: str
    model: ModelInfo
    detector: DetectorSettings
    allow_url: tuple[str, ...] = ()
    url_input: bool = True
    api_key_file: str | None = None
    own_host: str | None = None
    cors_origin: tuple[str, ...] = ()
    docs: bool = True
    max_queue: int = MAX_QUEUE
    stats_dir: str | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON data; `from_json` reads it back."""
        return asdict(self)

    def split(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a replica is made with (Serve's `args`), and what a living one can be told (Serve's `user_config`).

        A change of the first replaces replicas; a change of the second reaches them as they run: default thresholds,
        and whether the model is stale, which says nothing new about the model itself.
        """
        made_with = self.to_json()
        model, detector = made_with["model"], made_with["detector"]
        told = {
            "fingerprint": made_with["fingerprint"],
            "model": {key: model[key] for key in ("fallback", "stale", "reason")},
            "detector": {key: detector[key] for key in ("confidence", "iou")},
        }
        made_with["fingerprint"] = ""
        for part, changeable in (("model", model), ("detector", detector)):
            made_with[part] = {key: value for key, value in changeable.items() if key not in told[part]}
        return made_with, told

    def told(self, user_config: dict[str, Any]) -> ServiceConfig:
        """This configuration with the second part of `split` taken over."""
        return replace(
            self,
            fingerprint=user_config["fingerprint"],
            model=replace(self.model, **user_config["model"]),
            detector=replace(self.detector, **user_config["detector"]),
        )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ServiceConfig:
        """The inverse of `to_json`; TypeError on another shape."""
        tuples = {key: tuple(data.get(key, ())) for key in ("allow_url", "cors_origin")}
        parts = {"model": ModelInfo.from_json(data["model"]), "detector": DetectorSettings(**data["detector"])}
        return cls(**{**data, **tuples, **parts})
