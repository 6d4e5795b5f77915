"""The Open Inference Protocol, version 2: tensors in, tensors out. No word of HTTP or gRPC."""
