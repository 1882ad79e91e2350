"""The ONNX stage: files, value index, discovery, segments, surgery; knows nothing of runtimes or of torch."""
