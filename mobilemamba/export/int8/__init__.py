"""Int8 files for ONNX Runtime: calibrated with images, judged by the classes that they give to others."""
