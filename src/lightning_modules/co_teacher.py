"""Stage `fdg`: Fourier-based domain generalisation with a teacher (Xu et al., CVPR 2021; docs/method.md, section 6).

Images come in pairs. Mixing part of the amplitudes of their spectra with the partner's gives each image a copy with
another style and the same content; from each of the two a student learns to predict what its slowly moving average,
the teacher, predicts for the other.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from src.averages import follow
from src.data.batch import Batch
from src.fourier import mix_amplitude
from src.lightning_modules.classifier import Classifier
from src.lightning_modules.optimizer import optimizer_and_schedule
from src.losses import consistency, mixed_cross_entropy, ramp_up
from src.mixing import Mixed
from src.numbers import check_number
from src.transfers import to_device


class CoTeacher(Classifier):
    """The teacher is a Classifier: its backbone and head predict, are validated and are handed on. The student learns.

    Args:
        ratio: r in (0, 1], side of the box in which amplitudes are mixed.
        temperature: T > 0, of the predictions in the consistency terms.
        temperature_squared: multiply both terms by T^2, without which their gradients shrink as 1 / T^2.
        copy_from_original: weight, at least 0, of KL(teacher's original || student's copy); 0 leaves the term out.
        original_from_copy: weight, at least 0, of KL(teacher's copy || student's original); 0 leaves the term out.
        ramp_up_epochs: epochs of this stage over which both weights grow, at least 0.
        decay: upper limit, in [0, 1], of the teacher's momentum, which is 1 - 1 / (step + 1) before, from 1/2 on.
        classifier: the arguments of Classifier; the optimiser gets the student's parameters.

    Raises:
        ValueError: a setting outside of its range.
    """

    passes = 4  # an image and its partner, and the copies of both

    def __init__(
        self,
        *,
        ratio: float,
        temperature: float,
        temperature_squared: bool,
        copy_from_original: float,
        original_from_copy: float,
        ramp_up_epochs: float,
        decay: float,
        **classifier: Any,
    ) -> None:
        check_number("module.ratio", ratio, 0, 1, above=True)
        check_number("module.temperature", temperature, 0, above=True)
        check_number("module.copy_from_original", copy_from_original, 0)
        check_number("module.original_from_copy", original_from_copy, 0)
        check_number("module.ramp_up_epochs", ramp_up_epochs, 0)
        check_number("module.decay", decay, 0, 1)
        super().__init__(**classifier)
        self.student = copy.deepcopy(self.teacher)
        self.teacher.requires_grad_(False)
        self.ratio, self.temperature = ratio, temperature
        self.consistency_scale = temperature**2 if temperature_squared else 1
        self.copy_from_original, self.original_from_copy = copy_from_original, original_from_copy
        self.ramp_up_epochs, self.decay = ramp_up_epochs, decay

    @property
    def teacher(self) -> nn.Sequential:
        """This module's own backbone and head, with the keys of the student."""
        return nn.Sequential(OrderedDict(backbone=self.backbone, head=self.head))

    def train(self, mode: bool = True) -> CoTeacher:
        """As in nn.Module, except for the teacher: it predicts, and so stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def on_train_start(self) -> None:
        self.train()  # Lightning does not call it, and restores each module's mode after a validation
        if self.trainer.global_step == 0:  # the weights to start from were given to the teacher
            self.student.load_state_dict(self.teacher.state_dict())

    def mix(self, batch: Batch) -> tuple[Mixed, torch.Tensor]:
        """Mixed originals of pairs, and their Fourier copies mixed with the same partners and weights.

        Args:
            batch: 2N images, image i and image (i + N) % 2N being a pair.

        Returns:
            The mixed originals, and the copies (2N, 3, H, W).
        """
        pairs, device = len(batch.image) // 2, batch.image.device
        lam = to_device(torch.rand(pairs).repeat(2), device)  # one weight ~ U(0, 1) per pair, drawn on the CPU
        other = torch.arange(2 * pairs, device=device).roll(pairs)
        copies = mix_amplitude(batch.image, other, lam, self.ratio).clamp_(0, 1)
        # The same draws twice: with partners of their own, the consistency terms would pull unrelated pictures
        # together (docs/method.md, section 9).
        with torch.random.fork_rng(devices=[]):
            mixed = self.mixed(batch)
        return mixed, self.mixed(batch._replace(image=copies)).image

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        mixed, copies = self.mix(batch)
        x = self.normalised(torch.cat([mixed.image, copies]))
        original, copied = self.student(x).chunk(2)
        labels = batch.label, batch.label[mixed.partner], mixed.lam, self.label_smoothing
        losses = {
            "train/original": 0.5 * mixed_cross_entropy(original, *labels),
            "train/copy": 0.5 * mixed_cross_entropy(copied, *labels),
        }
        ramp = ramp_up(self.current_epoch, self.ramp_up_epochs)
        if self.copy_from_original or self.original_from_copy:
            with torch.no_grad():
                aim_original, aim_copied = self.teacher(x).chunk(2)
            terms = {
                "train/copy_from_original": (self.copy_from_original, copied, aim_original),
                "train/original_from_copy": (self.original_from_copy, original, aim_copied),
            }
            losses |= {
                name: weight * ramp * self.consistency_scale * consistency(student, teacher, self.temperature)
                for name, (weight, student, teacher) in terms.items()
                if weight
            }
        loss = torch.stack(list(losses.values())).sum()
        figures = {**losses, "train/loss": loss}
        self.log_dict(figures, on_step=False, on_epoch=True, batch_size=len(batch.label), sync_dist=True)
        self.log_mixed(mixed)
        return loss

    def training_images(self, batch: Batch) -> Mixed:
        """What the network sees of a batch, each mixed original followed by its copy."""
        mixed, copies = self.mix(batch)
        return mixed._replace(image=torch.stack([mixed.image, copies], dim=1).flatten(0, 1))

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        """The student's step, and then the teacher's."""
        super().optimizer_step(*args, **options)
        self.update_teacher(self.trainer.global_step + 1)  # Lightning counts this step after the hook

    def update_teacher(self, step: int) -> None:
        """theta_t = m theta_t + (1 - m) theta_s, m = min(1 - 1 / (step + 1), decay), of parameters and buffers.

        As in FACT (docs/method.md, section 6): the first step has m = 1/2, so the teacher's initial weights,
        finetune's average, are kept in part. Integer buffers are copied.

        Args:
            step: the stage's own steps so far, this one included: 1 after the first.
        """
        momentum = min(1 - 1 / (step + 1), self.decay)
        follow(self.teacher.state_dict().values(), self.student.state_dict().values(), momentum)

    def configure_optimizers(self) -> Any:
        return optimizer_and_schedule(self.optimizer, self.scheduler, self.student)
