"""The ONNX Runtime stage: sessions and providers, feeds, measuring, evaluating.

`onnxruntime` is imported inside functions only, so that light commands start fast.
"""
