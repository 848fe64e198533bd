"""Speed of the image encoders, the instance decoder and the mask decoder, beside the networks they take the place of.

    python benchmarks/encoders.py [--data FOLDER] [--images 3] [--rounds 3] [--profile] [--runtimes onnxruntime openvino]

The baselines are segment-anything's ``ImageEncoderViT`` and ``MaskDecoder`` (on 16 points), the plain ``TinyViT`` and
torch-em's ``UNETR`` decoder, all in float32 as the existing packages run them. Baseline and contestants take turns on the same 1024 x 1024 image; the fastest
turn counts. The ceiling is the speed of matrix products in the contestant's number format, measured in the same run.

Agreement: masks from the same prompts (points in objects, and their boxes) on the embeddings of both networks; for the
decoder, its three maps. vit_t and its masks use the bundled weights. There are none for vit_b and UNETR in the
package, so these use random weights, and their masks are thresholded at the median of the baseline's logits. Random maps
are flat, so that rounding decides; with ``--imitate 200`` UNETR first learns for 200 steps what the bundled decoder says of
the same images, and its foreground is thresholded at one half, as in use.
"""

from __future__ import annotations

import argparse
import copy
import functools
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
import torch
from runtimes import RUNTIMES, runtime_forms
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from skimage.measure import regionprops
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from micro_sam.embeddings.preprocessing import to_image
from micro_sam.io import load_image_data
from micro_sam.models.accelerate import accelerate_decoder, accelerate_mask_decoder, accelerate_sam
from micro_sam.models.build_sam import build_sam
from micro_sam.models.decoder import UNETRDecoder
from micro_sam.models.decoder_adapter import build_decoder
from micro_sam.models.predictor import get_sam_model

TARGETS = {
    ("vit_b", "bfloat16"): 4.0, ("vit_b", "float32"): 1.5, ("vit_t", "bfloat16"): 3.0, ("UNETR", "bfloat16"): 3.0,
}  # fmt: skip
SIDE = 1024
Network = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Sample:
    """An RGB image and prompts in the encoder's frame: points (n, 1, 2) and boxes (n, 4), both x first."""

    image: np.ndarray
    points: torch.Tensor
    boxes: torch.Tensor


@dataclass(frozen=True)
class Case:
    """A network to measure: the baseline, its fast forms, inputs, and how to compare the outputs for an input."""

    name: str
    baseline: Network
    fast: dict[str, Network]
    inputs: list[torch.Tensor]
    agreement: Callable[[int, torch.Tensor, torch.Tensor], str]


def ceilings() -> dict[str, float]:
    """GFLOP/s of matrix products as large as the encoder's, the fastest of a few shapes."""
    result = {}
    for dtype in (torch.float32, torch.bfloat16):
        speeds = []
        for m, k, n in ((4096, 768, 3072), (4096, 3072, 768), (4096, 768, 2304), (2048, 2048, 2048)):
            a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
            speeds.append(2e-9 * m * k * n / min(timed(lambda a=a, b=b: a @ b)[0] for _ in range(5)))
        result[str(dtype).removeprefix("torch.")] = max(speeds)
    return result


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and seconds of all processors together, of one call."""
    start, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - cpu


def read_images(folder: Path | None, n_images: int) -> list[Sample]:
    """Samples from skimage, or from a folder with ``*_image.tif`` and ``*_labels.tif`` (the middle plane of a volume).

    Prompts are up to 25 objects of the labels, and without labels a grid of points with boxes around them.
    """
    if folder is None:
        images = [to_image(image) for image in (skimage.data.coins(), skimage.data.moon(), skimage.data.coffee())]
        return [Sample(image, *_grid_prompts()) for image in images[:n_images]]
    samples = []
    for subfolder in sorted({path.parent for path in folder.rglob("*_image.tif")}):
        path = min(subfolder.glob("*_image.tif"))
        image, labels = load_image_data(path), load_image_data(path.with_name(path.name.replace("_image", "_labels")))
        middle = len(labels) // 2
        image, labels = (image[middle], labels[middle]) if labels.ndim == 3 else (image, labels)
        samples.append(Sample(to_image(image), *_object_prompts(labels)))
    return samples[:: max(1, len(samples) // n_images)][:n_images]


def _grid_prompts() -> tuple[torch.Tensor, torch.Tensor]:
    grid = torch.linspace(96, SIDE - 96, 5)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).reshape(-1, 1, 2)
    return points, torch.cat([points - 60, points + 60], -1)[:, 0]


def _object_prompts(labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    objects = regionprops(labels.astype(int))
    objects = objects[:: max(1, len(objects) // 25)][:25]
    scale = SIDE / max(labels.shape)
    points = torch.tensor([region.coords[len(region.coords) // 2][::-1].copy() for region in objects])
    boxes = torch.tensor([[region.bbox[i] for i in (1, 0, 3, 2)] for region in objects])
    return points[:, None].float() * scale, boxes.float() * scale


def randomise(module: nn.Module) -> nn.Module:
    """Random weights that keep the scale of activations, none of them zero."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        values = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            values = 1 + 0.5 * values.abs()
        elif tensor.ndim <= 1:
            values = 0.1 * values + float(name.endswith("weight"))
        elif "pos_embed" in name or "rel_pos" in name:
            values = 0.1 * values
        elif "positional" not in name:
            values = values / math.sqrt(tensor[0].numel())
        tensor.copy_(values)
    return module.eval()


def prepare(sam: Sam, image: np.ndarray) -> torch.Tensor:
    """The encoder's input for an image, (1, 3, 1024, 1024)."""
    resized = ResizeLongestSide(SIDE).apply_image(image)
    return sam.preprocess(torch.from_numpy(resized).permute(2, 0, 1)[None].float())


def predict_masks(sam: Sam, features: torch.Tensor, sample: Sample) -> torch.Tensor:
    """Logits (prompts, 256, 256) for the points and for the boxes."""
    points = (sample.points, torch.ones(sample.points.shape[:2]))
    logits = []
    for prompt in ({"points": points, "boxes": None}, {"points": None, "boxes": sample.boxes}):
        sparse, dense = sam.prompt_encoder(**prompt, masks=None)
        logits.append(sam.mask_decoder(features, sam.prompt_encoder.get_dense_pe(), sparse, dense, False)[0][:, 0])
    return torch.cat(logits)


def mask_agreement(sam: Sam, sample: Sample, trained: bool, expected: torch.Tensor, features: torch.Tensor) -> str:
    """IoU of the masks from two embeddings."""
    reference, logits = predict_masks(sam, expected, sample), predict_masks(sam, features, sample)
    threshold = torch.zeros(len(logits), 1, 1) if trained else reference.flatten(1).median(1).values[:, None, None]
    masks = compare_masks(reference > threshold, logits > threshold)
    error = (features - expected).norm() / expected.norm()
    return f"IoU {masks}; features differ by {error:.1e}"


def compare_masks(first: torch.Tensor, second: torch.Tensor) -> str:
    """Mean and least IoU of masks (..., H, W); two empty masks agree."""
    union = (first | second).sum((-2, -1))
    iou = torch.where(union > 0, (first & second).sum((-2, -1)) / union.clamp(min=1), 1.0)
    return f"of {iou.numel()} masks: mean {iou.mean():.4f}, least {iou.min():.3f}"


def map_agreement(_: int, expected: torch.Tensor, maps: torch.Tensor, trained: bool = False) -> str:
    """Differences of the decoder's maps, and the IoU of the foreground."""
    threshold = 0.5 if trained else expected[:, :1].median()
    first, second = expected[:, 0] > threshold, maps[:, 0] > threshold
    iou = (first & second).sum() / (first | second).sum()
    return f"foreground IoU {iou:.4f}; maps differ by {(maps - expected).abs().mean():.1e}"


def encoder_case(name: str, sam: Sam, samples: list[Sample], trained: bool, runtimes: list[str]) -> Case:
    """An encoder, its accelerated forms, and the encoder in other runtimes."""
    fast = {p: accelerate_sam(copy.deepcopy(sam), p).image_encoder for p in ("float32", "bfloat16")}
    with tempfile.TemporaryDirectory() as folder:
        fast |= runtime_forms(sam.image_encoder, runtimes, Path(folder))
    inputs = [prepare(sam, sample.image) for sample in samples]
    return Case(name, sam.image_encoder, fast, inputs, lambda i, a, b: mask_agreement(sam, samples[i], trained, a, b))


def prompt_case(sam: Sam, samples: list[Sample]) -> Case:
    """The mask decoder on 16 points: segment-anything's and ours."""
    points = _grid_prompts()[0][:16]
    sparse, dense = sam.prompt_encoder(points=(points, torch.ones(len(points), 1)), boxes=None, masks=None)
    position = sam.prompt_encoder.get_dense_pe()

    def wrap(decoder: nn.Module) -> Network:
        return lambda features: decoder(features, position, sparse, dense, True)[0]

    fast = {p: wrap(accelerate_mask_decoder(copy.deepcopy(sam), p).mask_decoder) for p in ("float32", "bfloat16")}
    inputs = [sam.image_encoder(prepare(sam, sample.image)) for sample in samples]
    return Case("masks", wrap(sam.mask_decoder), fast, inputs, lambda _, a, b: f"IoU {compare_masks(a > 0, b > 0)}")


class _Encoder(nn.Module):
    """What torch-em asks of an encoder when only the decoder is wanted."""

    img_size, embed_dim, in_chans = SIDE, 256, 3


def imitate(decoder: nn.Module, teacher: nn.Module, features: list[torch.Tensor], steps: int) -> nn.Module:
    """Train a decoder to give the maps of another one, on random windows of features; batch norms stay as they are."""
    optimizer = torch.optim.AdamW(decoder.parameters(), 5e-4)
    rng = np.random.default_rng(0)
    with torch.enable_grad():
        for step in range(steps):
            y, x = rng.integers(0, 40, 2)
            window = features[step % len(features)][..., y : y + 24, x : x + 24].clone()
            with torch.autocast("cpu", torch.bfloat16):
                target = nn.functional.interpolate(
                    teacher.maps(window).sigmoid().detach(), scale_factor=2, mode="bilinear"
                )
                maps = decoder.maps(window)
            loss = nn.functional.binary_cross_entropy_with_logits(maps.float(), target.float())
            loss.backward()
            nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = 5e-4 * (1 - step / steps)
            if step % 20 == 0 or step == steps - 1:
                print(f"UNETR imitates: step {step}, cross entropy {loss.item():.4f}", flush=True)
    return decoder.requires_grad_(False).eval()


def decoder_case(features: list[torch.Tensor], teacher: nn.Module | None, steps: int) -> Case:
    """torch-em's decoder and ours, with the same weights: random ones, or those that imitate a teacher."""
    from torch_em.model import UNETR

    options = {"use_sam_stats": True, "use_skip_connection": False, "resize_input": True}
    unetr = UNETR(encoder=_Encoder(), out_channels=3, final_activation="Sigmoid", **options).eval()
    decoder = randomise(UNETRDecoder())
    if steps:
        decoder = imitate(decoder.requires_grad_(True), teacher, features, steps)
    unetr.load_state_dict(decoder.state_dict())
    shape = (SIDE, SIDE)

    def wrap(network: nn.Module) -> Network:
        return lambda x: network(x, shape, shape)

    fast = {p: wrap(accelerate_decoder(copy.deepcopy(decoder), p)) for p in ("float32", "bfloat16")}
    agreement = functools.partial(map_agreement, trained=steps > 0)
    return Case("UNETR", lambda x: unetr.decode((x, None, None), shape, shape), fast, features, agreement)


def measure(case: Case, rounds: int, limits: dict[str, float], with_profile: bool) -> None:
    """Take turns, print a row for each form, and a profile where the target is missed."""
    x = case.inputs[0]
    with FlopCounterMode(display=False) as counter:
        expected = case.baseline(x)
    gflop = counter.get_total_flops() / 1e9
    forms = {"baseline": case.baseline, **case.fast}
    results = {name: network(x) for name, network in case.fast.items()}
    turns = {name: [] for name in forms}
    for _ in range(rounds):
        for name, network in forms.items():
            turns[name].append(timed(lambda network=network: network(x)))
    seconds = {name: min(wall for wall, _ in runs) for name, runs in turns.items()}
    processor = {name: min(cpu for _, cpu in runs) for name, runs in turns.items()}
    for name, network in forms.items():
        limit = limits["bfloat16" if name.endswith(("bfloat16", "bf16")) else "float32"]
        speedup, target = seconds["baseline"] / seconds[name], TARGETS.get((case.name, name))
        agreement = "" if name == "baseline" else case.agreement(0, expected, results[name])
        print(
            f"{case.name:6} {name:9} {seconds[name]:8.2f} {processor[name]:8.2f} {gflop:8.0f} {limit:9.0f} "
            f"{gflop / seconds[name] / limit:8.0%} {speedup:7.1f}x {f'{target}x' if target else '':>7}  {agreement}",
            flush=True,
        )
        if with_profile or (target and speedup < target):
            print_profile(network, x)
    for i, image in enumerate(case.inputs[1:], start=1):
        expected = case.baseline(image)
        for name, network in case.fast.items():
            print(f"{case.name:6} {name:9} image {i + 1}: {case.agreement(i, expected, network(image))}", flush=True)


def print_profile(network: Network, x: torch.Tensor) -> None:
    """The operations that take the most time."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        network(x)
    events = sorted(recorded.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    for event in events[:10]:
        share = event.self_cpu_time_total / total
        print(f"    {event.self_cpu_time_total / 1e3:8.0f} ms {share:5.0%} {event.count:5} x {event.key}")


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Folder searched for tif images; skimage's images by default.")
    parser.add_argument("--images", type=int, default=3, help="On how many images results are compared.")
    parser.add_argument("--rounds", type=int, default=3, help="How often each network has its turn.")
    parser.add_argument("--networks", nargs="+", default=["vit_t", "vit_b", "UNETR", "masks"], help="Which to measure.")
    parser.add_argument("--imitate", type=int, default=0, help="Steps for which UNETR learns from the bundled decoder.")
    parser.add_argument(
        "--runtimes", nargs="*", choices=RUNTIMES, default=[], help="Other runtimes to measure the encoders in, too."
    )
    parser.add_argument("--profile", action="store_true", help="Print the slowest operations of every row.")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    samples = read_images(arguments.data, arguments.images)
    limits = ceilings()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("matrix products:", ", ".join(f"{name} {speed:.0f} GFLOP/s" for name, speed in limits.items()))
    print(f"{'':16} {'seconds':>8} {'cpu s':>8} {'GFLOP':>8} {'ceiling':>9} {'of it':>8} {'speedup':>8} {'target':>7}")
    tiny = get_sam_model("vit_t_builtin", device="cpu", accelerate=False).model.requires_grad_(False)
    for name in arguments.networks:
        if name == "UNETR":
            encoder = accelerate_sam(copy.deepcopy(tiny), "float32").image_encoder
            teacher = build_decoder(get_sam_model("vit_t_builtin", device="cpu").decoder_state).requires_grad_(False)
            features = [encoder(prepare(tiny, sample.image)) for sample in samples]
            case = decoder_case(features, teacher, arguments.imitate)
        elif name == "masks":
            case = prompt_case(tiny, samples)
        elif name == "vit_t":
            case = encoder_case(name, tiny, samples, True, arguments.runtimes)
        else:
            case = encoder_case(name, randomise(build_sam(name)), samples, False, arguments.runtimes)
        measure(case, arguments.rounds, limits, arguments.profile)


if __name__ == "__main__":
    main()
