"""`ranking`: how stable rankings of layers are over draws of the images."""
