"""Where a model comes from: a reference becomes a pinned, verified checkpoint in the store."""
