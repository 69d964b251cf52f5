"""Other file formats: ONNX with its cache, and checkpoints for other libraries; writes nothing that was not checked."""
