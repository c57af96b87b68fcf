"""Decoders of segmentation_models_pytorch on this backbone, by their names in that library."""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor, nn
from torch.nn import functional as F

from mobilemamba.backbone import MobileMamba
from mobilemamba.dilation import keep_resolution
from mobilemamba.errors import UserError, require

LEVELS = 5
"""Feature maps of its encoders besides the image itself, at strides 2 to 32."""


class SmpDecoder(nn.Module):
    """One of the library's decoders and its head on the maps of a MobileMamba's stem and first stages.

    If the decoder needs a finer output stride, the backbone is dilated (:mod:`mobilemamba.dilation`). Images may have
    any size: they are padded with zeros to the next multiple of 32.

    Args:
        network: The backbone; its classifier is removed.
        decoder: Any name of ``create_model``, such as "unet", "deeplabv3plus" or "segformer".
        num_classes: Classes of a pixel.

    Raises:
        UserError: When the library is not installed, or does not know the decoder or cannot use it here.
    """

    def __init__(self, network: MobileMamba, decoder: str, num_classes: int) -> None:
        super().__init__()
        if find_spec("segmentation_models_pytorch") is None:
            raise UserError(
                f"model.decoder = {decoder!r} needs segmentation_models_pytorch, which is not installed: pip install "
                "mobilemamba-lightning[dense], or take 'semantic_fpn'."
            )
        import segmentation_models_pytorch as smp

        config, levels = network.config, len(network.feature_info)
        require(
            levels >= LEVELS, "model.decoder", decoder, f"'semantic_fpn' for a network of {levels} maps: smp needs five"
        )
        shape = {name: getattr(config, name) for name in ("stem_stride", "widths", "depths", "mixer_stages")}
        of_stages = ("global_shares", "local_shares", "local_kernels", "wavelet_kernels")
        shape |= {name: getattr(config, name) for name in of_stages}
        # PSPNet's default of three maps would not use any stage.
        shape |= {"encoder_depth": LEVELS, "upsampling": 2**LEVELS} if decoder == "pspnet" else {}
        try:
            # Its encoder is only used to tell the decoder the shapes of the maps.
            whole = smp.create_model(
                decoder, "tu-mobilemamba_s6", None, in_channels=config.in_chans, classes=num_classes, **shape
            )
        except (KeyError, ValueError) as error:
            raise UserError(
                f"model.decoder = {decoder!r} cannot be built by segmentation_models_pytorch: {error}"
            ) from error
        if whole.encoder.output_stride < 2**LEVELS:
            keep_resolution(network, whole.encoder.output_stride)
        network.prune_intermediate_layers(list(range(LEVELS)))
        self.network, self.decoder, self.head = network, whole.decoder, whole.segmentation_head

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes, H, W)."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % 2**LEVELS, 0, -height % 2**LEVELS))
        maps = self.network.forward_intermediates(padded, indices=list(range(LEVELS)), intermediates_only=True)
        logits: Tensor = self.head(self.decoder([padded, *maps]))
        return logits[..., :height, :width]
