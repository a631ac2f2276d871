"""modules.py - the parts of the model that no library class provides.

`Connector` is the small MLP between the two panels; `ImageTokenizer` is TA-Tok around the real SigLIP
encoder class. Their state dictionaries carry the published tensor names.
"""

import torch
import torch.nn.functional as F
from diffusers.models.normalization import RMSNorm
from torch import nn
from transformers import Siglip2VisionConfig, SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipVisionTransformer
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionModel


class Connector(nn.Sequential):
    """Linear, GELU (tanh), Linear, RMSNorm: one row of context from one vector."""

    def __init__(self, inputs, outputs):
        super().__init__(
            nn.Linear(inputs, outputs),
            nn.GELU(approximate="tanh"),
            nn.Linear(outputs, outputs),
            RMSNorm(outputs, eps=1e-5, elementwise_affine=True),
        )


class Codebook(nn.Module):
    """The projected codebook: entries are normalized after the projection, and so is the query."""

    def __init__(self, codes, dim):
        super().__init__()
        self.embedding = nn.Embedding(codes, dim)
        self.embedding_proj = nn.Linear(dim, dim)

    def similarities(self, y):
        """Cosine of every row of y with every entry, [..., codes]."""
        entries = F.normalize(self.embedding_proj(self.embedding.weight), dim=-1, eps=1e-12)
        return F.normalize(y, dim=-1, eps=1e-12) @ entries.T


class Bottleneck(nn.Module):
    """From encoder features to codebook space; `out_linear` is stored but never used here."""

    def __init__(self, width, codes, dim):
        super().__init__()
        self.in_linear = nn.Linear(width, dim)
        self.out_linear = nn.Linear(dim, dim)
        self.regularizer = Codebook(codes, dim)


class ScaleLayer(nn.Module):
    """Identity in these checkpoints: the preprocessor has already normalized the image."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))


class ImageTokenizer(nn.Module):
    """TA-Tok: pixels in [-1, 1] to one code per patch. The decoder half only completes the checkpoint."""

    def __init__(self, shape):
        super().__init__()
        width, dim = shape["hidden_size"], shape["code_dim"]
        keys = ("image_size", "patch_size", "hidden_size", "num_attention_heads", "num_hidden_layers",
                "intermediate_size")
        self.encoder = SiglipVisionTransformer(SiglipVisionConfig(**{k: shape[k] for k in keys}))
        self.encode_task_layer = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.bottleneck = Bottleneck(width, shape["codes"], dim)
        self.decode_task_layer = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        self.decoder = Siglip2VisionModel(decoder_config(shape))
        self.scale_layer = ScaleLayer()

    def stages(self, pixels):
        """Every stage of tokenization, by name; `codes` is the answer."""
        out = {"pixels": pixels[0]}
        states = self.encoder(pixels, output_hidden_states=True).hidden_states
        out["embedded"] = states[0][0]
        out["features"] = states[-2][0]
        out["task"] = self.encode_task_layer(out["features"])
        out["bottleneck"] = self.bottleneck.in_linear(out["task"])
        out["similarities"] = self.bottleneck.regularizer.similarities(out["bottleneck"])
        out["codes"] = out["similarities"].argmax(-1).to(torch.int32)
        return out


def decoder_config(shape):
    """The unused feature decoder: a patch is a vector of `code_dim` channels."""
    channels = 6 if shape["code_dim"] % 6 == 0 else 1
    side = int(round((shape["code_dim"] / channels) ** 0.5))
    assert channels * side * side == shape["code_dim"]
    return Siglip2VisionConfig(hidden_size=shape["hidden_size"], intermediate_size=64,
                               num_hidden_layers=1, num_attention_heads=4, num_channels=channels,
                               patch_size=side, num_patches=16)
