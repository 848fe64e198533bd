"""How good is a segmentation, a model, a prompt."""
