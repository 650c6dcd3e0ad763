"""Robust dataset distillation: tensors in, dataclasses out.

Owns the science. It knows nothing of HTTP, databases, environment variables or a global device, and
importing the package itself does not import torch: `rome_core.errors` and `rome_core.recipes` are
its torch-free ring.
"""
