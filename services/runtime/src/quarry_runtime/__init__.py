"""What the model services share: ONNX sessions, token-budget batching, the Seldon v1 model server."""
