"""The tasks a network can be compressed for: data, labels and metric of each."""
