"""tools/demo/components.py - the five trained parts of the demo checkpoint, by their public classes, and their sizes.

Every number that fixes a tensor shape stands here once; export.py writes the same numbers into the JSON files.
"""

import torch
from diffusers import AutoencoderDC, SanaTransformer2DModel
from diffusers.models.normalization import RMSNorm
from torch import nn
from torch.nn import functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM, SiglipVisionConfig, SiglipVisionModel

IMAGE = 128  # pixels a side
GRID = 8  # image tokens a side, and latent cells a side
CODES = 512  # codebook entries
LATENT = 16  # latent channels

LM = dict(hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4,
          head_dim=32, rms_norm_eps=1e-6, rope_theta=1e6, max_position_embeddings=2048, attention_bias=False,
          hidden_act="silu", tie_word_embeddings=True, rope_scaling=None, use_sliding_window=False)
CONTEXT = 192  # width of the connector's output
SANA = dict(in_channels=LATENT, out_channels=LATENT, num_attention_heads=6, attention_head_dim=32, num_layers=6,
            num_cross_attention_heads=6, cross_attention_head_dim=32, cross_attention_dim=192, caption_channels=CONTEXT,
            mlp_ratio=2.5, dropout=0.0, attention_bias=False, sample_size=GRID, patch_size=2,
            norm_elementwise_affine=False, norm_eps=1e-6, qk_norm="rms_norm_across_heads", interpolation_scale=None)
VAE = dict(in_channels=3, latent_channels=LATENT, attention_head_dim=32,
           encoder_block_types=("ResBlock",) * 4 + ("EfficientViTBlock",),
           decoder_block_types=("ResBlock",) * 4 + ("EfficientViTBlock",),
           encoder_block_out_channels=(16, 32, 64, 128, 128), decoder_block_out_channels=(16, 32, 64, 128, 128),
           encoder_layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 2, 2),
           encoder_qkv_multiscales=((), (), (), (), (5,)), decoder_qkv_multiscales=((), (), (), (), (5,)),
           upsample_block_type="interpolate", downsample_block_type="Conv", decoder_norm_types="rms_norm",
           decoder_act_fns="silu", scaling_factor=1.0)
VISION = dict(hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, image_size=IMAGE,
              patch_size=IMAGE // GRID, num_channels=3, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6,
              attention_dropout=0.0)
CODE_WIDTH = 64  # width of a codebook entry


def autoencoder():
    return AutoencoderDC(**VAE)


def language_model(vocab_size):
    config = Qwen3Config(vocab_size=vocab_size, **LM)
    config._attn_implementation = "eager"  # on rows this short as fast as the fused kernel, and the same function
    return Qwen3ForCausalLM(config)


def connector():
    """Linear, GELU, Linear, RMSNorm: hidden states to cross-attention context."""
    norm = RMSNorm(CONTEXT, eps=1e-5, elementwise_affine=True)
    nn.init.constant_(norm.weight, 5.5 ** 0.5)
    return nn.Sequential(nn.Linear(LM["hidden_size"], CONTEXT), nn.GELU(approximate="tanh"),
                         nn.Linear(CONTEXT, CONTEXT), norm)


def diffusion():
    return SanaTransformer2DModel(**SANA)


class SimVQ(nn.Module):
    """A fixed random codebook seen through one trained linear map; nearest entry by cosine."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(CODES, CODE_WIDTH)
        self.embedding.weight.requires_grad_(False)
        self.embedding_proj = nn.Linear(CODE_WIDTH, CODE_WIDTH)

    def entries(self):
        return F.normalize(self.embedding_proj(self.embedding.weight), dim=-1, eps=1e-12)


class Bottleneck(nn.Module):
    def __init__(self):
        super().__init__()
        self.in_linear = nn.Linear(VISION["hidden_size"], CODE_WIDTH)
        self.regularizer = SimVQ()

    def forward(self, x):
        """Unit vectors y [.., CODE_WIDTH], their codes, and the chosen entries."""
        y = F.normalize(self.in_linear(x).float(), dim=-1, eps=1e-12)
        entries = self.regularizer.entries().float()
        codes = (y @ entries.T).argmax(-1)
        return y, codes, entries[codes]


class Tokenizer(nn.Module):
    """Image to codes, in the layout of TA-Tok: SigLIP features of the last layer but one, tanh layer, codebook."""

    def __init__(self):
        super().__init__()
        self.encoder = SiglipVisionModel(SiglipVisionConfig(vision_use_head=False, **VISION)).vision_model
        self.encode_task_layer = nn.Sequential(nn.Linear(VISION["hidden_size"], VISION["hidden_size"]), nn.Tanh())
        self.bottleneck = Bottleneck()

    def features(self, images):
        """images [B, 3, IMAGE, IMAGE] in [-1, 1]."""
        states = self.encoder(images, output_hidden_states=True).hidden_states
        return self.encode_task_layer(states[-2])

    def forward(self, images):
        return self.bottleneck(self.features(images))
