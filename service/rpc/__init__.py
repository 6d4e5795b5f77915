"""The gRPC transport: parse, call the gateway, map its codes to gRPC."""
