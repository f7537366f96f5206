"""Records of the tensors of a run, in torch_xray's HDF5 layout."""
