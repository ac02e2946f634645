"""LightningModules: one method per file, the whole method in it; and what the project asks of any of them.

Hydra makes a stage's module from `module` of its settings, by keyword. `Stage` is what train.py and the callbacks use
of it in addition to Lightning's own; one that has what `VotingStage` has becomes a member of the ensemble.
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

    What a resumed run needs is in its parameters and buffers (or in plain values of a checkpoint); its draws come from
    torch's generator of the CPU, which is seeded before each batch. `callbacks.best` keeps the best.ckpt by
    `val/in_domain/accuracy`, which the module logs when it validates. A stage that does not (moco, wsss) sets
    `callbacks.best: null` and `trainer.limit_val_batches: 0`. One whose network sees an image more than once in an
    epoch says how often by `passes`, which comparisons of equal training rest on.

    A module that has nothing to train (grabcut, average_maps) is no Stage: it comes with `trainer.max_epochs: 0`,
    without a `backbone`, and exports what its masks depend on: nothing, or the networks of earlier runs. What makes
    masks has a predict_step, and `map_settings` for callbacks.masks.
    """

    @property
    def exported(self) -> Sequence[str]:
        """Names of its parts, nn.Modules, that weights.safetensors gets and `init_parts` of a later stage may name."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) in [0, 1] to what it makes of them; features (N, C) where `callbacks.neighbours` is."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The loss, a scalar, logged by epoch as `train/loss`; one that is not finite ends the run."""

    def configure_optimizers(self) -> Any:
        """As Lightning has it; `learning_rate` in metrics.csv is that of the first group of parameters."""

    def training_images(self, batch: Any) -> Mixed:
        """What the network sees of a batch of N, for pictures/, by the draws of a training_step.

        V versions of each image one after the other, (V * N, 3, H, W) in [0, 1]; partner (N,) and lam say what the
        images are mixed of.
        """


@runtime_checkable
class VotingStage(Stage, Protocol):
    """A Stage whose finished runs can vote: one with `num_classes` in its settings has to be that.

    Prediction knows the run's files alone. It makes `network(backbone=, num_classes=, mean=, std=)` of those settings
    of `module` and fills the parts that the network itself calls `exported` from weights.safetensors. train.py refuses
    settings that this would not work with: a `backbone` that timm.create_model does not make of plain values
    (`${model}` is one), `mean` or `std` that are not three numbers, an `eval_transform` that is not one of
    src.transforms.
    """

    @property
    def network(self) -> type[Network]:
        """Network or a subclass of it, as an attribute of the class."""
