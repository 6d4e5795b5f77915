"""From a bundle to what a server loads. Runs on Python 3.10 without torch and pydantic."""
