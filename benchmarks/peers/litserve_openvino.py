"""A peer: LitServe in front of Ultralytics on OpenVINO. `MODEL=… python litserve_openvino.py PORT WORKERS [OPTION]`.

Each worker's OpenVINO uses every core that the worker may, which is best for a single client; with `a-core-each` the
workers answer many clients faster and a single one slower.
"""

import os
import sys
from typing import Annotated, Any

import litserve
from fastapi import Body
from ultralytics_openvino import load

Image = Annotated[bytes, Body(media_type="image/jpeg")]  # LitServe itself reads only forms and JSON


class Detect(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's
        if "a-core-each" in sys.argv:
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[int(os.environ["LITSERVE_WORKER_ID"]) % len(cores)]})
        self.detect = load(os.environ["MODEL"])

    def decode_request(self, request: Image) -> bytes:  # LitServe reads the annotation as it stands
        return request

    def predict(self, image: bytes) -> list[dict[str, Any]]:
        return self.detect(image)

    def encode_response(self, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {"objects": output}


if __name__ == "__main__":
    server = litserve.LitServer(Detect(api_path="/detect"), accelerator="cpu", workers_per_device=int(sys.argv[2]))
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
