"""Bytes to durable files and back; knows nothing of tensors' meaning."""
