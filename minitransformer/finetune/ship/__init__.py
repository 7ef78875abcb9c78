"""Making something else of a trained model: ONNX, a program, a checkpoint without adapters."""
