"""MobileNetV3-Small: see mobilenetv3."""

from __future__ import annotations

import keras

from converter.zoo.mobilenetv3 import SMALL, entry

ZOO_ENTRY = entry("mobilenetv3_small", SMALL, 1024, keras.applications.MobileNetV3Small)
