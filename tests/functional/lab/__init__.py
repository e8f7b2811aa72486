"""The laboratory tested: each helper must be able to say yes and to say no."""
