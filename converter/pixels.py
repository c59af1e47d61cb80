"""Preprocessing: from the pixels of an RGB image, 0..255, to what a network takes."""

from __future__ import annotations

from signatures.catalogue import Preprocessing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of RGB in 0..1, as torchvision normalises."""
TORCHVISION_PIXELS = Preprocessing(
    scale=(1 / 255 / IMAGENET_STD[0], 1 / 255 / IMAGENET_STD[1], 1 / 255 / IMAGENET_STD[2]),
    offset=(
        -IMAGENET_MEAN[0] / IMAGENET_STD[0],
        -IMAGENET_MEAN[1] / IMAGENET_STD[1],
        -IMAGENET_MEAN[2] / IMAGENET_STD[2],
    ),
)
TENSORFLOW_PIXELS = Preprocessing(scale=(1 / 127.5,) * 3, offset=(-1.0,) * 3)
"""What Keras calls the mode "tf": −1..1."""
CAFFE_PIXELS = Preprocessing(scale=(1.0,) * 3, offset=(-123.68, -116.779, -103.939))
"""What Keras calls the mode "caffe": minus ImageNet's mean, and then BGR, for which see `bgr_to_rgb`."""
UNIT_PIXELS = Preprocessing(scale=(1 / 255,) * 3, offset=(0.0,) * 3)
"""0..1."""
RAW_PIXELS = Preprocessing(scale=(1.0,) * 3, offset=(0.0,) * 3)
"""0..255 as they are."""

BY_NAME = {
    "symmetric": TENSORFLOW_PIXELS,
    "unit": UNIT_PIXELS,
    "imagenet": TORCHVISION_PIXELS,
    "raw": RAW_PIXELS,
}
"""What `--preprocess` may say of a network from elsewhere."""
