"""The graph compiler: from a float32 .tflite inference graph to train signatures in builtin TFLite ops."""
