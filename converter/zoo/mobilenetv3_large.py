"""MobileNetV3-Large: see mobilenetv3."""

from __future__ import annotations

import keras

from converter.zoo.mobilenetv3 import LARGE, entry

ZOO_ENTRY = entry("mobilenetv3_large", LARGE, 1280, keras.applications.MobileNetV3Large)
