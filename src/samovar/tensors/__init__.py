"""Plain data: storage types and tensors as they lie on disk."""
