"""Output tensors to predictions, in NumPy. One file a task."""
