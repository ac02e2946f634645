"""LightningModules: one file per method, with the whole method in it; and the contract that all of them fulfil.

Hydra makes a stage's module from `module` of its settings, by keyword. `Stage` is what train.py and the callbacks use
of it besides Lightning's own interface; a module that fulfils `VotingStage` becomes a member of the ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

if TYPE_CHECKING:  # the stages' files import this one
    from src.lightning_modules.classifier import Network
    from src.mixing import Mixed


@runtime_checkable
class Stage(Protocol):
    """A LightningModule that conf/stage may name.

    Everything a resumed run needs is in its parameters and buffers (or in plain values of a checkpoint); its random
    draws come from torch's CPU generator, which is seeded before each batch. `callbacks.best` keeps the best.ckpt by
    `val/in_domain/accuracy`, which the module logs when it validates. A stage that does not (moco, wsss) sets
    `callbacks.best: null` and `trainer.limit_val_batches: 0`. If its network sees an image more than once in an epoch,
    `passes` says how often, so that runs of equal training can be compared.

    A module with nothing to train (grabcut, average_maps) is no Stage: it comes with `trainer.max_epochs: 0`, without a
    `backbone`, and exports what its masks depend on: nothing, or the networks of earlier runs. Modules that make masks
    have a predict_step, and `map_settings` for callbacks.masks.
    """

    @property
    def exported(self) -> Sequence[str]:
        """Names of the parts, nn.Modules, saved in weights.safetensors, which a later stage's `init_parts` may name."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1] to its output; features (N, C) if there is `callbacks.neighbours`."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The loss, a scalar, logged by epoch as `train/loss`; one that is not finite ends the run."""

    def configure_optimizers(self) -> Any:
        """As in Lightning; `learning_rate` in metrics.csv is the rate of the first group of parameters."""

    def training_images(self, batch: Any) -> Mixed:
        """What the network sees of a batch of N, for pictures/, with a training_step's random draws.

        V versions of each image one after the other, (V * N, 3, H, W) in [0, 1]; partner (N,) and lam say what the
        images are mixed from.
        """


@runtime_checkable
class VotingStage(Stage, Protocol):
    """A Stage whose finished runs can vote; required of every stage with `num_classes` in its settings.

    Prediction knows only the run's files. It makes `network(backbone=, num_classes=, mean=, std=)` from these settings
    of `module` and fills the network's `exported` parts from weights.safetensors. train.py refuses settings with which
    this would not work: a `backbone` that timm.create_model cannot make from plain values (`${model}` is fine), `mean`
    or `std` that are not three numbers, an `eval_transform` that is not one of src.transforms.
    """

    @property
    def network(self) -> type[Network]:
        """Network or a subclass of it, as an attribute of the class."""
