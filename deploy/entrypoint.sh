#!/bin/sh
# What the image runs: detectctl, with the model that was built in, and with the W&B key that was mounted.
set -e

# The cache may be an empty volume, or one of an older image. What lies in it goes by its content. Each file is made
# anew: an earlier copy may have been cut off, and another container may be reading it. The folder itself may be
# somebody else's, as Kubernetes' volumes are, and then keeps its time.
if [ -d /opt/models/cache/detectctl ]; then
  mkdir -p -m 0700 "$XDG_CACHE_HOME/detectctl"
  cp -R --remove-destination --preserve=timestamps /opt/models/cache/detectctl/* "$XDG_CACHE_HOME/detectctl/"
fi

if [ -s /run/secrets/wandb_api_key ]; then
  WANDB_API_KEY=$(cat /run/secrets/wandb_api_key)
  export WANDB_API_KEY
fi

exec detectctl "$@"
