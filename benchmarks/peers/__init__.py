"""One photo classifier behind other servers; each file runs in that server's own environment."""
