"""The parts of detectors that look twice: first where something is, then what it is."""
