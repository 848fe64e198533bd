"""A predictor with an encoder of one convolution, and writers of stores as micro-sam 1.x lays them out."""

from __future__ import annotations

import torch
from segment_anything import SamPredictor
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer


class ToyEncoder(torch.nn.Module):
    """A single strided convolution from (B, 3, 1024, 1024) to (B, 256, 64, 64), with fixed weights."""

    img_size = 1024

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 256, kernel_size=2, stride=16)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        self.batch_sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batch_sizes.append(x.shape[0])
        return self.convolution(x)


def make_toy_predictor(model_hash: str = "xxh128:0123", name: str = "vit_t_toy") -> SamPredictor:
    """A working SamPredictor around `ToyEncoder`, with the attributes by which embeddings know their model."""
    sam = Sam(
        image_encoder=ToyEncoder(),
        prompt_encoder=PromptEncoder(256, (64, 64), (1024, 1024), 16),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=1, embedding_dim=256, mlp_dim=64, num_heads=8),
            transformer_dim=256,
        ),
    ).eval()
    predictor = SamPredictor(sam)
    predictor.model_type, predictor.model_name, predictor._hash = "vit_t", name, model_hash
    return predictor
