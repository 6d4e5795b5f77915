"""What people see of the service: who asked what, log lines, traces, and what a GPU draws."""
