"""The online half: answer requests over the network from a model repository. Imports no torch."""
