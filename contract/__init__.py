"""What compress and service must agree on: the card, the labels and the preprocessing.

Imports the standard library, NumPy and Pillow only, so that both halves and the Jetson can use it.
"""
