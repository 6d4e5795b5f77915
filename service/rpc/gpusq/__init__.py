"""Messages by package, as gRPC names them."""
