"""Readers of pictures and labels."""
