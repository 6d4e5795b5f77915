"""The REST transport: parse, call the gateway, map its codes to HTTP."""
