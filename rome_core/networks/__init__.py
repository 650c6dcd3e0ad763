"""The networks of the comparison: what a NetworkSpec looks like in PyTorch, one file a family.

Owns layers, initialisation and embeddings. It neither trains nor attacks, and touches no global
generator.
"""

from rome_core.networks.building import CLASSES, blank, build
from rome_core.networks.convnet import ConvNet
from rome_core.networks.footprint import Footprint, footprint, operations
from rome_core.networks.layers import GroupNorm, make_fusible
from rome_core.networks.network import Network

__all__ = [
    "CLASSES",
    "ConvNet",
    "Footprint",
    "GroupNorm",
    "Network",
    "blank",
    "build",
    "footprint",
    "make_fusible",
    "operations",
]
