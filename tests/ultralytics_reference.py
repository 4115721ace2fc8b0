"""Ultralytics' own answer, as JSON in the last line on stdout: its LetterBox, model and NMS on torch in fp32.

Run as `python ultralytics_reference.py CHECKPOINT JOB…` with jobs as `IMGSZ:CONFIDENCE:IOU:IMAGE`, in a process of its
own because torch is heavy and changes what the process may be tested for. The answer maps each job to its detections.
"""

from __future__ import annotations

import json
import sys

import torch
from ultralytics.data.augment import LetterBox
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import scale_boxes
from ultralytics.utils.patches import imread


def main(checkpoint: str, *jobs: str) -> None:
    model, _ = load_checkpoint(checkpoint, fuse=True)
    answers = {}
    with torch.inference_mode():
        for job in jobs:
            imgsz, confidence, iou, path = job.split(":", 3)
            image = imread(path)  # BGR
            box = LetterBox(int(imgsz), auto=True, stride=32)(image=image)
            batch = torch.from_numpy(box[..., ::-1].transpose(2, 0, 1).copy())[None].float() / 255
            (found,) = non_max_suppression(model(batch), float(confidence), float(iou))
            found[:, :4] = scale_boxes(batch.shape[2:], found[:, :4], image.shape)
            answers[job] = found.tolist()  # [[x1, y1, x2, y2, confidence, class_id], …]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
