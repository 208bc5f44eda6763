"""Export models for other programs: the recurrent step as ONNX or for PyTorch alone, or all of generation in C++."""
