"""The 17 keypoints of a person in COCO's data set, by which a pose can be drawn and described.

After the category `person` of COCO's `person_keypoints` annotations; its `skeleton` counts from 1.
"""

from __future__ import annotations

NAMES = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)
LIMBS = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
"""Pairs of keypoints that are joined, counted from 0."""
SEEN = 0.5
"""The confidence from which a keypoint is taken as visible, as Ultralytics draws them."""
