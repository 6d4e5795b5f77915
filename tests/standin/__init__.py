"""A stand-in for what a machine without a GPU lacks: the module ``tensorrt`` and libcudart.

Names and behaviour are those that NVIDIA documents for TensorRT 8.6, 10 and 11 and for the CUDA
runtime. Memory is the host's, a plan is a header and an ONNX file, and ONNX Runtime (or the
reference of onnx, where that is not installed) computes it. It shows that our code calls what is
there in an order that is allowed; it shows nothing about speed, kernels or numbers on a GPU.
"""
