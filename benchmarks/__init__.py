"""Comparisons with other tools: what they need is never needed by the project itself."""
