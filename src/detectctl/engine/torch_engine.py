"""The engine for CUDA: the checkpoint's own PyTorch network; also runs on the CPU, for comparison."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectctl.engine.batching import Batcher
from detectctl.engine.checkpoint import ULTRALYTICS, refuse_at_sight, refuse_unreadable
from detectctl.engine.families import describe, outputs, raw
from detectctl.engine.torchvision_operators import prepare_torchvision
from detectctl.engine.yolo_head import Candidates, Raw, decode, least, whole
from detectctl.errors import ModelCorrupt, UsageError
from detectctl.files import reason, sha256_of
from detectctl.wire import Device, EngineInfo, Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from detectctl.engine.detector_settings import DetectorSettings


class TorchEngine:
    """See `detectctl.engine.interface.Engine`.

    Args:
        settings: the precision `auto` is fp16 on CUDA and fp32 on the CPU.
        threads: CPU threads to use.
        batch: largest batch; None for 8 on CUDA, and 1 on the CPU, which gains nothing from more.

    Raises:
        ModelCorrupt: the file is missing, or its bytes are not those of `sha256`.
        CheckpointRefused: it asks for code, is damaged, or is of a kind that is not served.
        UsageError: there is no such device, or it does not compute in that precision.
    """

    def __init__(self, settings: DetectorSettings, *, threads: int, batch: int | None = None) -> None:
        checkpoint, device = Path(settings.model), settings.device
        _verify(checkpoint, settings.sha256)
        refuse_at_sight(checkpoint, trusted=settings.trust_checkpoint)
        os.environ.update(ULTRALYTICS)
        import torch

        automatic: Precision = "fp16" if device == "cuda" else "fp32"
        chosen = automatic if settings.precision == "auto" else settings.precision
        _check_device(torch, device, chosen)
        torch.set_num_threads(threads)
        model, arguments = _load(checkpoint, trust=settings.trust_checkpoint)
        self.trained = describe(model, arguments)
        raw(model)
        largest = batch or (8 if device == "cuda" else 1)
        self.info = EngineInfo("torch", device, chosen, threads, streams=1, batch=largest)
        self._torch = torch
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[chosen]
        # To say how large the model is, which `verbose` does, it would run it, and RT-DETR would lose its anchors.
        self._model = model.fuse(verbose=False).eval().to(device, self._dtype, memory_format=torch.channels_last)
        self._device = device
        # One batch at a time: the head keeps the anchors of the last shape it saw, so it is not safe for two threads.
        self._batcher = Batcher(self._run, largest)

    def infer(
        self,
        images: NDArray[np.uint8],
        confidences: Sequence[float],
        *,
        alone: bool,  # noqa: ARG002 - the protocol's
    ) -> list[Candidates]:
        """See `Engine.infer`; `alone` makes no difference: requests that wait share a batch."""
        return self._batcher.infer(images, confidences)

    def _run(self, images: NDArray[np.uint8], confidences: Sequence[float]) -> list[Candidates]:
        batch = self._torch.from_numpy(images)
        if self._device == "cuda":
            batch = batch.pin_memory().to("cuda", non_blocking=True)
        return self._found(batch, confidences)

    def _found(self, batch: Any, confidences: Sequence[float]) -> list[Candidates]:
        """As `infer`, of a tensor that is on the device."""
        torch, shape = self._torch, batch.shape[1:3]
        with torch.inference_mode():
            # A view: channels_last means NHWC memory seen as NCHW.
            answer = outputs(self._model(batch.permute(0, 3, 1, 2).to(self._dtype) / 255))
            classes = answer["classes"]
            if self.trained.head.kind == "image":
                return [whole(each, shape) for each in classes.float().cpu().numpy()]
            limits = torch.tensor([least(self.trained.head, confidence) for confidence in confidences])
            image, place = (classes.amax(1) > limits.to(classes.device)[:, None]).nonzero().unbind(1)
            # Few places remain, and they leave the device together: each transfer waits for all work on the device.
            parts = [answer[name] for name in ("boxes", "classes", "extras") if name in answer]
            picked = torch.cat([part[image, :, place] for part in parts], dim=1).float().cpu().numpy()
            where = torch.stack((image, place)).cpu().numpy()
            prototypes = [None] * len(batch)
            if "prototypes" in answer and len(place):
                prototypes = list(answer["prototypes"].float().cpu().numpy())
        sides = parts[0].shape[1]
        bounds = sides, sides + classes.shape[1]
        found = []
        for index, confidence in enumerate(confidences):
            rows, places = picked[where[0] == index].T, where[1][where[0] == index]
            raw_parts = Raw(
                places, rows[: bounds[0]], rows[bounds[0] : bounds[1]], rows[bounds[1] :], prototypes[index]
            )
            found.append(decode(self.trained, raw_parts, confidence=confidence, shape=shape))
        return found

    def close(self) -> None:
        """See `Engine.close`."""
        del self._model
        if self._device == "cuda":
            self._torch.cuda.empty_cache()


def _verify(checkpoint: Path, sha256: str) -> None:
    hint = "run `detectctl up` again"
    try:
        digest = sha256_of(checkpoint)
    except OSError as error:
        raise ModelCorrupt(f"{checkpoint} cannot be read", why=reason(error), hint=hint) from error
    if digest != sha256:
        why = f"its sha256 is {digest}, expected {sha256}"
        raise ModelCorrupt(f"{checkpoint} is not the file it should be", why=why, hint=hint)


def _check_device(torch: Any, device: Device, precision: Precision) -> None:
    if precision == "int8":
        raise UsageError(
            "the precision int8 is not available with PyTorch",
            why="only the engine openvino computes in int8",
            hint="use `--device cpu` or `--precision auto`",
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("the device cuda is not available", why="PyTorch finds no GPU", hint="use `--device cpu`")
    if device == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UsageError(
            "the precision bf16 is not available on this GPU",
            why="it does not compute in bf16",
            hint="use `--precision auto`",
        )


def _load(checkpoint: Path, *, trust: bool) -> tuple[Any, dict[str, Any]]:
    """The model, and the arguments that it was trained with.

    As Ultralytics' `load_checkpoint`, which takes the choice of safe loading from the environment only.
    """
    import torch
    from ultralytics.nn.tasks import guess_model_task, torch_safe_load

    prepare_torchvision(checkpoint)
    try:
        content, _ = torch_safe_load(checkpoint, safe_only=not trust)
        model = (content.get("ema") or content["model"]).float()
        model.task = guess_model_task(model)
        for layer in model.modules():
            if isinstance(layer, torch.nn.Upsample) and not hasattr(layer, "recompute_scale_factor"):
                layer.recompute_scale_factor = None  # saved by a PyTorch before 1.11
    except Exception as error:  # hostile bytes may lead the loader to any exception
        raise refuse_unreadable(checkpoint, error, trusted=trust) from error
    return model, content.get("train_args") or {}
