"""The ESPNetv2 family: backbones, classifiers, segmenters and detectors built from EESP units.

>>> import vision
>>> model = vision.create_model("espnetv2_100", num_classes=10)

With the authors' weights, ``vision.load_predictor("espnetv2_200_seg_voc")("photo.jpg").save("overlay.png")``.
"""

from vision.backbone import ESPNetv2
from vision.classification import Classifier
from vision.datasets import Dataset
from vision.detection import Detector
from vision.folding import optimize
from vision.predictor import Predictor, load_predictor
from vision.preprocessing import Preprocessing
from vision.pretrained import load_weights, save_weights
from vision.registry import create_model, list_models
from vision.segmentation import Segmenter
from vision.weights import Weights, list_weights

__all__ = [
    "Classifier",
    "Dataset",
    "Detector",
    "ESPNetv2",
    "Predictor",
    "Preprocessing",
    "Segmenter",
    "Weights",
    "create_model",
    "list_models",
    "list_weights",
    "load_predictor",
    "load_weights",
    "optimize",
    "save_weights",
]
