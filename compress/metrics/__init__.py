"""How right answers are, by the rules of each field."""
