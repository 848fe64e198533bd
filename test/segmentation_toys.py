"""Toy models with known answers: a Sam whose embeddings carry a label image, and a decoder that knows the truth.

The toy Sam obeys the interfaces of the real one. Its encoder segments the image by a threshold and packs the labels,
at 256 x 256, into the features; its mask decoder looks up the object under a point and gives its signed distance as
logits, in three versions (a part, the object, everything around it) with different predicted quality.
"""

from __future__ import annotations

import bioimage_cpp as bic
import numpy as np
import torch
from scipy import ndimage
from segment_anything import SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide
from skimage.draw import ellipse
from torch import nn
from torch.nn import functional as F

LOW_RES = 256


class ToyEncoder(nn.Module):
    """Label image of what is brighter than the threshold, at 256 x 256, in the first 16 of 256 channels."""

    img_size = 1024

    def __init__(self, threshold: float = 0.0) -> None:
        super().__init__()
        self.threshold = threshold
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = F.avg_pool2d(x.mean(dim=1, keepdim=True), 4) > self.threshold
        labels = np.stack([ndimage.label(image[0].numpy())[0] for image in bright])
        return pack(labels)


def pack(labels: np.ndarray) -> torch.Tensor:
    """(B, 256, 256) labels -> (B, 256, 64, 64) features."""
    channels = F.pixel_unshuffle(torch.from_numpy(labels[:, None].astype(np.float32)), 4)
    return F.pad(channels, (0, 0, 0, 0, 0, 256 - channels.shape[1]))


def unpack(features: torch.Tensor) -> np.ndarray:
    """The inverse of `pack`, (256, 256)."""
    return F.pixel_shuffle(features[:1, :16], 4)[0, 0].numpy().astype(int)


class ToyPromptEncoder(nn.Module):
    """Hands the prompts on as they are: one row (x, y, label) for each point, corners of a box have labels 2 and 3."""

    def forward(self, points, boxes, masks):
        rows = []
        if points is not None:
            coordinates, labels = points
            rows.append(torch.cat([coordinates, labels[..., None].float()], dim=2))
        if boxes is not None:
            corners = boxes.reshape(-1, 2, 2)
            kinds = torch.tensor([2.0, 3.0]).expand(len(corners), 2)[..., None]
            rows.append(torch.cat([corners, kinds], dim=2))
        if rows:
            sparse = torch.cat(rows, dim=1)
        else:
            sparse = torch.zeros(len(masks), 0, 3)
        dense = torch.zeros(len(sparse), 1, LOW_RES, LOW_RES) if masks is None else masks
        return sparse, dense

    def get_dense_pe(self):
        return torch.zeros(1, 256, 64, 64)


class ToyMaskDecoder(nn.Module):
    """The object under the prompts, as signed distance; counts how many prompts it has decoded."""

    def __init__(self) -> None:
        super().__init__()
        self.n_decoded = 0

    def forward(self, image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings, multimask_output):
        labels = unpack(image_embeddings)
        masks, ious = zip(*(self._one(labels, s, d) for s, d in zip(sparse_prompt_embeddings, dense_prompt_embeddings)))
        self.n_decoded += len(masks)
        masks, ious = torch.stack(masks), torch.stack(ious)
        which = slice(1, None) if multimask_output else slice(0, 1)
        return masks[:, which], ious[:, which]

    def _one(self, labels, sparse, dense):
        target = self._target(labels, sparse.numpy(), dense[0].numpy())
        distance = signed_distance(target)
        inner = distance - 0.4 * max(distance.max(), 0)
        around = signed_distance(labels > 0)
        quality = 0.97 - 0.003 * self._eccentricity(target, sparse.numpy())
        masks = torch.from_numpy(np.stack([distance, inner, distance, around])).float().mul(4).clamp(-20, 20)
        return masks, torch.tensor([quality, quality - 0.12, quality, 0.6]).float()

    @staticmethod
    def _target(labels, sparse, dense):
        for kind in (1, 2):
            if (sparse[:, 2] == kind).any():
                if kind == 1:
                    x, y = np.clip((sparse[sparse[:, 2] == 1][0, :2] / 4).astype(int), 0, LOW_RES - 1)
                    target = (labels == labels[y, x]) & (labels[y, x] > 0)
                else:
                    (x0, y0), (x1, y1) = (sparse[sparse[:, 2] == k][0, :2] / 4 for k in (2, 3))
                    window = labels[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
                    counts = np.bincount(window[window > 0], minlength=1)
                    target = labels == (np.argmax(counts) if counts.any() else -1)
                break
        else:
            counts = np.bincount(labels[(dense > 0) & (labels > 0)], minlength=1)
            target = labels == (np.argmax(counts) if counts.any() else -1)
        for x, y, _ in sparse[sparse[:, 2] == 0]:
            yy, xx = np.ogrid[:LOW_RES, :LOW_RES]
            target = target & ((yy - y / 4) ** 2 + (xx - x / 4) ** 2 > 16)
        return target

    @staticmethod
    def _eccentricity(target, sparse):
        if not target.any() or not (sparse[:, 2] == 1).any():
            return 0.0
        center = np.array(ndimage.center_of_mass(target))[::-1]
        return float(np.linalg.norm(sparse[sparse[:, 2] == 1][0, :2] / 4 - center))


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the mask's edge, positive inside."""
    if not mask.any():
        return np.full(mask.shape, -20.0)
    if mask.all():
        return np.full(mask.shape, 20.0)
    transform = bic.distance.distance_transform
    return transform(mask) - transform(~mask) - mask + 0.5


class ToySam(nn.Module):
    """The parts under the names the real one has."""

    mask_threshold = 0.0
    image_format = "RGB"

    def __init__(self, threshold: float = 0.0) -> None:
        super().__init__()
        self.image_encoder = ToyEncoder(threshold)
        self.prompt_encoder = ToyPromptEncoder()
        self.mask_decoder = ToyMaskDecoder()

    @property
    def device(self):
        return torch.device("cpu")

    def preprocess(self, x):
        x = (x.float() - 127.5) / 64
        height, width = x.shape[-2:]
        return F.pad(x, (0, 1024 - width, 0, 1024 - height), value=-2.0)

    def postprocess_masks(self, masks, input_size, original_size):
        masks = F.interpolate(masks, (1024, 1024), mode="bilinear", align_corners=False)
        masks = masks[..., : input_size[0], : input_size[1]]
        return F.interpolate(masks, tuple(original_size), mode="bilinear", align_corners=False)


def toy_predictor(threshold: float = 0.0) -> SamPredictor:
    """A predictor with a toy Sam and the attributes that ours adds."""
    predictor = SamPredictor(ToySam(threshold))
    predictor.model_type, predictor.model_name, predictor._hash = "toy", "toy", "xxh128:0"
    predictor.checkpoint_path, predictor.precision, predictor.decoder_state = None, "float32", None
    return predictor


def embeddings_of(labels: np.ndarray) -> dict:
    """Embeddings of an image whose objects are these labels."""
    input_size = ResizeLongestSide.get_preprocess_shape(*labels.shape, 1024)
    rows, columns = (
        np.minimum(((np.arange(LOW_RES) + 0.5) * 4 * o / i).astype(int), o - 1)
        for o, i in zip(labels.shape, input_size)
    )
    low = labels[np.ix_(rows, columns)].copy()
    low[-(-input_size[0] // 4) :] = 0
    low[:, -(-input_size[1] // 4) :] = 0
    return {
        "features": pack(low[None]).numpy(),
        "input_size": input_size,
        "original_size": labels.shape,
    }


def true_maps(labels: np.ndarray) -> np.ndarray:
    """(3, H, W) float32: what a perfect decoder predicts."""
    from torch_em.transform.label import PerObjectDistanceTransform

    transform = PerObjectDistanceTransform(
        distances=True, boundary_distances=True, directed_distances=False, foreground=True
    )
    return transform(labels).astype(np.float32)


class TrueDecoder(nn.Module):
    """A decoder that knows the labels. For tiles it finds its place by the labels packed in the features."""

    def __init__(self, *maps_by_call: np.ndarray) -> None:
        super().__init__()
        self.maps, self.calls = list(maps_by_call), 0

    def forward(self, features, input_shape, original_shape):
        maps = self.maps[min(self.calls, len(self.maps) - 1)]
        self.calls += 1
        assert maps.shape[-2:] == tuple(original_shape)
        return torch.from_numpy(maps)[None]


def draw_ellipses(shape, n: int, radii: tuple[int, int], seed: int = 0, gap: int = 3) -> np.ndarray:
    """Labels of ellipses that do not touch."""
    rng = np.random.default_rng(seed)
    labels, taken, count = np.zeros(shape, dtype=np.uint32), np.zeros(shape, dtype=bool), 0
    for _ in range(20 * n):
        if count == n:
            break
        center, axes, angle = rng.uniform(0, shape), rng.uniform(*radii, 2), rng.uniform(0, np.pi)
        window = ellipse(*center, *(axes + gap), shape=shape, rotation=angle)
        if len(window[0]) == 0 or taken[window].any():
            continue
        taken[window] = True
        body = ellipse(*center, *axes, shape=shape, rotation=angle)
        if len(body[0]) == 0:
            continue
        count += 1
        labels[body] = count
    return labels
