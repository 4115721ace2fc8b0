#!/bin/sh
# Turn a folder of images, subfolders included, into one COCO data set: for example a first draft of labels.
# Usage: folder_to_coco.sh FOLDER OUTPUT.json [CONFIDENCE]
set -u

detectctl detect --recursive --format coco --conf "${3:-0.25}" --output "$2" "$1"
status=$?
# 6: some images failed. They are listed under "info": {"errors": …}; all others are in the data set.
if [ $status -ne 0 ] && [ $status -ne 6 ]; then
    exit $status
fi
echo "wrote $2" >&2
exit $status
