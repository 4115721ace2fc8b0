"""Makes torchvision importable where its compiled operators do not load: built for CUDA, beside a torch that has none.

Ultralytics imports it to train, and to predict classes. Import this module first. Of the operators only NMS is used,
which Ultralytics has in plain torch too, with the same answer.
"""

from __future__ import annotations

import torch
from ultralytics.utils.nms import TorchNMS

try:
    import torchvision
except RuntimeError:
    _library = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.impl("nms", TorchNMS.nms, "CPU")
    import torchvision

    torchvision.extension._assert_has_ops = torchvision.ops.boxes._assert_has_ops = lambda: None
