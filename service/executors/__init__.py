"""What runs the networks. An executor knows no task."""
