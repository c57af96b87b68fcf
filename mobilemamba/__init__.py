"""MobileMamba: a light vision backbone of scans, wavelets and convolutions (CVPR 2025, arXiv:2411.15941).

Importing this package registers the published variants with timm: ``timm.create_model("mobilemamba_s6")``.

Symbols used throughout: B batch, C channels, H and W height and width in pixels (of an image or a feature map),
L = H * W, D inner channels of the scan, N its state size, R rank of its step-size projection, K scan directions.
Beside a scan, B and C are also its input and output projections, as in the Mamba literature.
"""

from mobilemamba.backbone import MobileMamba
from mobilemamba.checkpoints import load_published_weights
from mobilemamba.config import MobileMambaConfig
from mobilemamba.errors import UserError
from mobilemamba.fusion import fuse
from mobilemamba.metadata import ModelMetadata
from mobilemamba.variants import VARIANTS, Variant
from mobilemamba.weights import load_network

__all__ = [
    "VARIANTS",
    "MobileMamba",
    "MobileMambaConfig",
    "ModelMetadata",
    "UserError",
    "Variant",
    "fuse",
    "load_network",
    "load_published_weights",
]
