"""The host side: networks and weights in, bundles out. The only importer of TensorFlow."""
