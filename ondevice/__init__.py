"""The device side: probe, rank, select, compile, train, evaluate, export. Never TensorFlow."""
