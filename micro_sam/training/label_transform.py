"""Annotated instances -> training targets: instances, and maps for the instance decoder as torch-em makes them."""

from __future__ import annotations

import numpy as np
from skimage.measure import label
from torch_em.transform.label import PerObjectDistanceTransform

UNKNOWN = -1


class InstanceTargets:
    """Connected instances, and with them the maps that the decoder predicts.

    Args:
        with_maps: Append foreground, distance to the object's centre and distance to its boundary.
        with_instances: Put the instances first.
        min_size: Objects with fewer pixels become unknown, so that no loss speaks about them.
    """

    def __init__(self, with_maps: bool, with_instances: bool = True, min_size: int = 25) -> None:
        self.with_maps, self.with_instances, self.min_size = with_maps, with_instances, min_size
        self._distances = PerObjectDistanceTransform(
            distances=True, boundary_distances=True, directed_distances=False, foreground=True, apply_label=False
        )

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Make the targets.

        Args:
            labels: (H, W) integer; 0 is background, negative is unknown.

        Returns:
            (channels, H, W) float32: the instances (unknown is -1), then the three maps, or one of both. Where labels
            are unknown the foreground is -1, too.
        """
        unknown = labels < 0
        instances = label(np.where(unknown, 0, labels), background=0, connectivity=1)
        if self.min_size > 0:
            small = np.bincount(instances.ravel()) < self.min_size
            small[0] = False
            unknown = unknown | small[instances]
            instances[unknown] = 0
        channels = [np.where(unknown, UNKNOWN, instances)[None]] if self.with_instances else []
        if self.with_maps:
            maps = self._maps(instances)
            maps[0][unknown] = UNKNOWN
            channels.append(maps)
        return np.concatenate(channels).astype(np.float32)

    def _maps(self, instances: np.ndarray) -> np.ndarray:
        if not instances.any():
            return np.concatenate([np.zeros((1, *instances.shape)), np.ones((2, *instances.shape))])
        return self._distances(instances.astype(np.uint32))
