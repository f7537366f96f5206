"""Records of tensors of several tools, read alike."""
