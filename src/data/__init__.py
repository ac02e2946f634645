"""From files to samples: manifests, the trees they list, splits, decoding, order."""
