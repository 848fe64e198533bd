"""Training from one prompt for each object, without corrections."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import ParameterError
from .objects import box_or_point
from .sam_trainer import SamTrainer
from .trainable_sam import prompt_tokens


class SimpleSamTrainer(SamTrainer):
    """`SamTrainer` with a single round, whose prompts are points, boxes, or either by chance.

    Args:
        use_points: Objects may be prompted by a point.
        use_box: Objects may be prompted by a box.
        **kwargs: Arguments of `SamTrainer`; ``n_sub_iteration`` and ``mask_prob`` are fixed.
    """

    def __init__(self, use_points: bool = True, use_box: bool = True, **kwargs: Any) -> None:
        if not (use_points or use_box):
            raise ParameterError("Either use_points or use_box must be set, neither is.")
        super().__init__(**{**kwargs, "n_sub_iteration": 1, "mask_prob": 0.0})
        self.use_points, self.use_box = use_points, use_box

    def initial_prompts(
        self, x: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """See `SamTrainer.initial_prompts`."""
        items, ids = self.convert_inputs(x, y[:, :1], 1, 0, get_boxes=True, n_samples=self.n_objects_per_batch)
        tokens = [prompt_tokens(item, self.device) for item, chosen in zip(items, ids) if len(chosen)]
        if not tokens:
            return torch.zeros(0, 2, 2), torch.zeros(0, 2), ids
        coords, labels = (torch.cat(parts) for parts in zip(*tokens))
        share = 0.5 if self.use_points and self.use_box else float(self.use_box)
        return (*box_or_point(coords, labels, share), ids)


class MedSAMTrainer(SimpleSamTrainer):
    """Trains with boxes only, as Ma et al., "Segment Anything in Medical Images" (2024), do.

    Args:
        **kwargs: Arguments of `SimpleSamTrainer`; prompts are boxes.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "use_points": False, "use_box": True})
