"""recipes.py - the shapes of the checkpoints this folder can make.

A recipe is a plain dictionary: the three configuration files of the model, the engine facts that go
to `diptych.json`, and how the tensors are stored. The tiny recipes are small enough to run in
milliseconds and awkward enough to expose layout mistakes: head counts whose product is not the
hidden size, feed-forward widths off every tile, autoencoder heads that straddle the thirds of the
stacked projection, shortcut factors of 2 and 4.
"""

BASE_TOKENS = 300  # 256 byte symbols and 44 merges
FIRST_ADDED = BASE_TOKENS + 26  # 26 base added tokens come first


def token_ids(image_tokens, base=BASE_TOKENS):
    """Ids that follow from growing the tokenizer by <im_start>, <im_end>, <S0>-<S2>, <I0>.."""
    first = base + 26
    return {
        "image_start_tag_id": first,
        "image_end_tag_id": first + 1,
        "num_scale_tokens": 3,
        "scale_start_token_id": first + 2,
        "scale_end_token_id": first + 4,
        "num_image_tokens": image_tokens,
        "image_start_token_id": first + 5,
        "image_end_token_id": first + 4 + image_tokens,
        "num_new_tokens": image_tokens,
        "vocab_size": first + 5 + image_tokens,
    }


def lm_config(hidden, intermediate, layers, heads, kv_heads, head_dim, tied, image_tokens, vision_width):
    """`config.json` of the checkpoint: Qwen3 keys and the keys the image model adds."""
    return {
        "architectures": ["blip3oQwenForInferenceLM"],
        "model_type": "qwen3",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "max_position_embeddings": 4096,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "use_sliding_window": False,
        "sliding_window": None,
        "use_cache": True,
        "tie_word_embeddings": tied,
        "bos_token_id": BASE_TOKENS,
        "eos_token_id": BASE_TOKENS + 2,
        "pad_token_id": BASE_TOKENS,
        **token_ids(image_tokens),
        "diffusion_name_or_path": ".",
        "mm_vision_tower": None,
        "mm_hidden_size": vision_width,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": True,
        "image_aspect_ratio": "square",
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": 2048,
        "use_tar_siglip_features": False,
        "use_und_image_vae": True,
        "use_und_image_vae_as_noise": True,
        "only_use_und_image_vae_as_noise": False,
        "torch_dtype": "bfloat16",
    }


def sana_config(channels, heads, head_dim, cross_heads, caption, layers, patch, sample):
    """`transformer/config.json`."""
    width = heads * head_dim
    assert width % cross_heads == 0
    return {
        "in_channels": channels,
        "out_channels": channels,
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "num_layers": layers,
        "num_cross_attention_heads": cross_heads,
        "cross_attention_head_dim": width // cross_heads,
        "cross_attention_dim": width,
        "caption_channels": caption,
        "mlp_ratio": 2.5,
        "dropout": 0.0,
        "attention_bias": False,
        "sample_size": sample,
        "patch_size": patch,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "interpolation_scale": None,
        "guidance_embeds": False,
        "guidance_embeds_scale": 0.1,
        "qk_norm": "rms_norm_across_heads",
        "timestep_scale": 1.0,
    }


def vae_config(latent_channels, head_dim, channels, types, enc_layers, dec_layers, down, up):
    """`vae/config.json`."""
    scales = [[5] if kind == "EfficientViTBlock" else [] for kind in types]
    return {
        "in_channels": 3,
        "latent_channels": latent_channels,
        "attention_head_dim": head_dim,
        "encoder_block_types": types,
        "decoder_block_types": types,
        "encoder_block_out_channels": channels,
        "decoder_block_out_channels": channels,
        "encoder_layers_per_block": enc_layers,
        "decoder_layers_per_block": dec_layers,
        "encoder_qkv_multiscales": scales,
        "decoder_qkv_multiscales": scales,
        "upsample_block_type": up,
        "downsample_block_type": down,
        "decoder_norm_types": "rms_norm",
        "decoder_act_fns": "silu",
        "scaling_factor": 0.41407,
    }


def vision_shape(grid, patch, leftover, hidden, heads, layers, mlp, codes, code_dim):
    """The image tokenizer. Its sizes can be read off the tensors, all but the head count and the image
    side (pixels beyond the last whole patch are ignored), which go to two extra keys of `config.json`."""
    return {
        "image_size": grid * patch + leftover,
        "patch_size": patch,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "intermediate_size": mlp,
        "codes": codes,
        "code_dim": code_dim,
    }


RES, VIT = "ResBlock", "EfficientViTBlock"

TINY_A = {
    "seed": 20250101,
    "lm": lm_config(64, 160, 2, 4, 2, 24, True, 64, 48),
    "sana": sana_config(8, 6, 8, 3, 40, 2, 1, 4),
    "vae": vae_config(8, 8, [16, 32, 32], [RES, VIT, VIT], [1, 1, 1], [1, 2, 1], "Conv", "interpolate"),
    "vision": vision_shape(4, 4, 2, 48, 4, 3, 100, 64, 24),
    "engine": {"image_grid": [4, 4], "latent_size": [4, 4], "steps": 4, "guidance": 2.0},
    "dtypes": {"": "bfloat16"},
    "shards": 1,
    "merges_as_pairs": False,
    "extra_head": False,
}

TINY_B = {
    "seed": 20250102,
    "lm": lm_config(80, 152, 3, 8, 4, 16, False, 64, 48),
    "sana": sana_config(8, 5, 8, 2, 24, 3, 2, 8),
    "vae": vae_config(8, 8, [8, 16, 16, 32], [RES, RES, VIT, VIT], [1, 1, 1, 1], [1, 1, 1, 2],
                      "Conv", "interpolate"),
    "vision": vision_shape(4, 4, 2, 48, 4, 3, 100, 64, 24),
    "engine": {"image_grid": [4, 4], "latent_size": [4, 8], "steps": 5, "guidance": 3.0},
    "dtypes": {"": "float16", "model.sana_vae.": "float32", "model.norm.": "float32"},
    "shards": 3,
    "merges_as_pairs": False,
    "extra_head": False,
}

TINY_C = {
    "seed": 20250107,
    "lm": lm_config(48, 104, 2, 4, 1, 20, True, 64, 48),
    "sana": sana_config(8, 6, 8, 3, 40, 2, 1, 4),
    "vae": vae_config(8, 8, [16, 32, 32], [RES, VIT, VIT], [1, 1, 1], [1, 2, 1],
                      "pixel_unshuffle", "pixel_shuffle"),
    "vision": vision_shape(3, 4, 1, 48, 4, 3, 100, 64, 24),
    "engine": {"image_grid": [3, 3], "latent_size": [2, 4], "steps": 4, "guidance": 2.0},
    "dtypes": {"": "bfloat16"},
    "shards": 1,
    "merges_as_pairs": True,
    "extra_head": True,
}

RANDOM_100M = {
    "seed": 20250104,
    "lm": lm_config(512, 1536, 14, 8, 4, 64, True, 4096, 48),
    "sana": sana_config(32, 16, 32, 8, 640, 9, 1, 16),
    "vae": vae_config(32, 32, [64, 128, 256, 256], [RES, RES, VIT, VIT], [1, 1, 1, 1], [2, 2, 2, 3],
                      "Conv", "interpolate"),
    "vision": vision_shape(12, 4, 2, 48, 4, 3, 100, 4096, 24),
    "engine": {"image_grid": [12, 12], "latent_size": [16, 16], "steps": 20, "guidance": 2.0},
    "dtypes": {"": "bfloat16"},
    "shards": 1,
    "merges_as_pairs": False,
    "extra_head": False,
}

TINY = {"a": TINY_A, "b": TINY_B, "c": TINY_C}
RANDOM = {"100m": RANDOM_100M}
