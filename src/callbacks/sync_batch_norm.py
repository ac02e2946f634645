"""BatchNorm over all processes, for every backbone of timm."""

from __future__ import annotations

from pytorch_lightning.plugins import TorchSyncBatchNorm
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn


class SyncBatchNorm(TorchSyncBatchNorm):
    """Convert by timm's function: torch's, which Lightning calls, drops the activation inside timm's BatchNormAct2d.

    In a DenseNet that is every ReLU. The keys of the weights would stay the same, so nobody would notice.

    Args:
        enabled: the trainer's sync_batchnorm; Lightning uses a plugin even where that is false.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def apply(self, model: nn.Module) -> nn.Module:
        """Convert every BatchNorm of the module, in place."""
        if not self.enabled or any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
            return model  # converted already: a second time, timm's function would drop the activations too
        converted: nn.Module = convert_sync_batchnorm(model)
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """Do nothing: in evaluation, with no other processes to wait for, it computes what BatchNorm does.

        Lightning's way back would drop the activations too.
        """
        return model
