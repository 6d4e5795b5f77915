"""What distillation compares, one file a kind of network: labels, logits, and who agrees."""
