"""A peer: FastAPI in front of Ultralytics on OpenVINO. `MODEL=… python fastapi_openvino.py PORT WORKERS`."""

from __future__ import annotations

import os
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from ultralytics_openvino import load


def create_app() -> FastAPI:
    app, detect = FastAPI(), load(os.environ["MODEL"])

    @app.post("/detect")
    async def answer(request: Request) -> dict[str, Any]:
        return {"objects": await run_in_threadpool(detect, await request.body())}

    return app


if __name__ == "__main__":
    uvicorn.run(
        "fastapi_openvino:create_app",
        factory=True,
        port=int(sys.argv[1]),
        workers=int(sys.argv[2]),
        access_log=False,
        log_level="warning",
    )
