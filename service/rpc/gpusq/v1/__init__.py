"""Version 1 of the messages; generated from the .proto beside this."""
