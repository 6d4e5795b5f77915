"""The offline half: a dense Vision Transformer becomes sparse, quantised and servable."""
