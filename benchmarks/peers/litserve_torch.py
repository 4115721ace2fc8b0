"""A peer: LitServe with its batches, in front of Ultralytics on PyTorch, in half precision on a GPU.

`MODEL=… IMGSZ=… python litserve_torch.py PORT WORKERS cpu|cuda`.
"""

import os
import sys
from typing import Annotated, Any

import cv2
import litserve
import numpy as np
import torch
from fastapi import Body
from ultralytics_openvino import YOLO, boxes

BATCH = 8  # as detectctl's engine takes at most
PATIENCE_S = 0.002  # for a batch to fill

Image = Annotated[bytes, Body(media_type="image/jpeg")]  # LitServe itself reads only forms and JSON


class Detect(litserve.LitAPI):
    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        self.yolo, self.device = YOLO(os.environ["MODEL"], task="detect"), device
        self.predict([np.full((480, 640, 3), 114, np.uint8)] * BATCH)

    def decode_request(self, request: Image) -> Any:  # LitServe reads the annotation as it stands
        image = cv2.imdecode(np.frombuffer(request, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        return image

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, images: list[Any]) -> list[list[dict[str, Any]]]:
        options = {"conf": 0.25, "iou": 0.7, "imgsz": int(os.environ["IMGSZ"]), "verbose": False}
        found = self.yolo.predict(images, device=self.device, half=self.device.startswith("cuda"), **options)
        return [boxes(self.yolo, one) for one in found]

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {"objects": output}


if __name__ == "__main__":
    port, workers, accelerator = sys.argv[1:]
    api = Detect(api_path="/detect", max_batch_size=BATCH, batch_timeout=PATIENCE_S)
    server = litserve.LitServer(api, accelerator=accelerator, devices=1, workers_per_device=int(workers))
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
