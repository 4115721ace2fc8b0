"""A replica's configuration: JSON data that travels in the Serve application's arguments."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from detectctl.engine.detector_settings import DetectorSettings
from detectctl.serving.carried import Carried
from detectctl.wire import ModelInfo

APPLICATION = "detectctl"
DEPLOYMENT = "Detector"
IMPORT_PATH = "detectctl.serving.app:build"
_REQUEST_DEFAULTS = ("confidence", "class_confidence", "iou", "max_det", "agnostic_nms")
UPDATES = "updates"
"""In the user configuration: what a host that cannot count elsewhere has counted."""
MAX_QUEUE = 64
"""Requests that one replica accepts at once: at 60 a second the last of them waits one second."""


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """Everything a replica needs; it resolves nothing by itself.

    Attributes:
        fingerprint: identifies this configuration; `/readyz` and `/info` repeat it.
        version: of detectctl; part of it so that an upgrade replaces the replicas.
        allow_url: hosts and networks that image URLs may lead to although they are not public.
        api_key_file: path of the file of accepted keys, never a key, because Serve's dashboard shows all this; None
            accepts every caller.
        key_digests: SHA-256, hex, of the accepted keys, for replicas that cannot read that file.
        updates: how many changes of the service had which end, where no folder of its host counts them.
        carried: how the model came to the node, for those that do not have it at `detector.model`.
        own_host: the `Host` that is accepted beside localhost and addresses; None accepts any.
        cors_origin: web origins whose pages may use the service, or `*`.
        max_queue: requests that one replica accepts at once; one more is answered 503.
        stats_dir: where replicas keep their counters and logs; None keeps counters in memory, and logs among Serve's.
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
    page: bool = True
    metrics_public: bool = False
    max_queue: int = MAX_QUEUE
    stats_dir: str | None = None
    key_digests: tuple[str, ...] = ()
    carried: Carried | None = None
    updates: dict[str, int] = field(default_factory=dict)

    def split(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a replica is made with (Serve's `args`), and what can change while it runs (Serve's `user_config`).

        A change of the first replaces replicas. A change of the second reaches them as they run: what holds for
        requests that say nothing else, which keys are accepted, and whether the model is a fallback or stale, which
        changes nothing about the model itself.
        """
        made_with = asdict(self)
        user_config = {
            "fingerprint": made_with["fingerprint"],
            "model": {key: made_with["model"].pop(key) for key in ("fallback", "stale", "reason")},
            "detector": {key: made_with["detector"].pop(key) for key in _REQUEST_DEFAULTS},
            "key_digests": made_with.pop("key_digests"),
        }
        return made_with | {"fingerprint": ""}, user_config

    def updated(self, user_config: dict[str, Any]) -> ServiceConfig:
        """This configuration with the second part of `split` replaced."""
        return replace(
            self,
            fingerprint=user_config["fingerprint"],
            model=replace(self.model, **user_config["model"]),
            detector=replace(self.detector, **user_config["detector"]),
            key_digests=tuple(user_config["key_digests"]),
            updates=dict(user_config.get(UPDATES, {})),
        )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ServiceConfig:
        """The inverse of `dataclasses.asdict`; TypeError on another shape."""
        tuples = {key: tuple(data.get(key, ())) for key in ("allow_url", "cors_origin", "key_digests")}
        parts = {"model": ModelInfo.from_json(data["model"]), "detector": DetectorSettings(**data["detector"])}
        carried = data.get("carried")
        return cls(**{**data, **tuples, **parts, "carried": None if carried is None else Carried.from_json(carried)})
