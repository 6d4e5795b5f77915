"""The page at / and the documentation page: static files."""
