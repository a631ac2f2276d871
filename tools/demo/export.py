"""tools/demo/export.py - puts the trained parts together as a checkpoint in the published layout.

    python tools/demo/export.py --out DIR --model models/demo
    python tools/demo/export.py --out DIR --model models/demo --unpack     the way back, to train on from a checkpoint

DIR is the folder of train.py. Weights are rounded to bfloat16 here and nowhere else.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import components
import scenes
import text

SAMPLING = {"steps": 14, "guidance": 2.5, "temperature": 0.85, "top_k": 100, "top_p": 1.0}
PREFIXES = {  # from the names of train.py to those of the checkpoint, by file
    "panels": {"panels.lm.": "", "panels.connector.": "model.diffusion_connector.", "panels.sana.": "model.sana."},
    "autoencoder": {"vae.": "model.sana_vae."},
    "tokenizer": {"tower.": "model.vision_tower.vision_tower."},
}

LM_EXCEPT = tuple(new for prefixes in PREFIXES.values() for new in prefixes.values() if new)


def collect(out):
    """All tensors under their published names."""
    tensors = {}
    for stage, prefixes in PREFIXES.items():
        for name, value in load_file(out / f"{stage}.safetensors").items():
            for old, new in prefixes.items():
                if name.startswith(old):
                    tensors[new + name[len(old):]] = value
    tensors.pop("lm_head.weight", None)  # tied
    tower = "model.vision_tower.vision_tower."
    tensors[tower + "scale_layer.shift"] = torch.zeros(1, 3, 1, 1)  # identity: the caller normalises
    tensors[tower + "scale_layer.scale"] = torch.ones(1, 3, 1, 1)
    return {name: value.to(torch.bfloat16).contiguous() for name, value in sorted(tensors.items())}


def unpack(model, out):
    """Split a checkpoint into the files that the stages of train.py start from."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = load_file(model / "model.safetensors")
    for stage, prefixes in PREFIXES.items():
        part = {}
        for old, new in sorted(prefixes.items(), key=lambda pair: -len(pair[1])):
            for name in [n for n in tensors if n.startswith(new)]:
                if new or not name.startswith(LM_EXCEPT):
                    part[old + name[len(new):]] = tensors.pop(name).float()
        save_file(part, out / f"{stage}.safetensors")


def preview_rgb(latents, scale, seed, weights):
    """Rows of [r, g, b] per latent channel and one of bias: least squares on pooled pixels, of scaled latents."""
    images = []
    for i in range(len(latents)):
        scene = scenes.training_scene(seed, i, weights)
        images.append(scenes.draw(scene.background, scene.things))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    pixels = F.avg_pool2d(pixels, components.IMAGE // components.GRID).permute(0, 2, 3, 1).reshape(-1, 3)
    x = (latents.float() * scale).permute(0, 2, 3, 1).reshape(-1, components.LATENT)
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    return [[round(float(v), 5) for v in row] for row in torch.linalg.lstsq(x, pixels).solution]


def configs(vocab_size, special, scale):
    """Every JSON file of the checkpoint but the tokenizer's, by its path."""
    vision = components.VISION
    main = {
        "architectures": ["blip3oQwenForCausalLM"], "model_type": "qwen3", "torch_dtype": "bfloat16",
        "vocab_size": vocab_size, **components.LM, **{k: v for k, v in special.items() if k != "pad_token_id"},
        "initializer_range": 0.02, "attention_dropout": 0.0, "sliding_window": None, "max_window_layers": 28,
        "use_cache": True, "diffusion_name_or_path": ".", "mm_vision_tower": None,
        "mm_hidden_size": vision["hidden_size"], "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "flat", "mm_use_im_start_end": True, "use_mm_proj": True,
        "tokenizer_padding_side": "right", "tokenizer_model_max_length": 2048, "use_pos_skipping": False,
        "pos_skipping_range": 4096,
        # sizes of the image tokenizer, which the published loader takes from a separate repository
        "mm_vision_image_size": vision["image_size"], "mm_vision_patch_size": vision["patch_size"],
        "mm_vision_heads": vision["num_attention_heads"],
        "mm_vision_intermediate_size": vision["intermediate_size"],
        "mm_vision_num_hidden_layers": vision["num_hidden_layers"],
        "mm_vision_layer_norm_eps": vision["layer_norm_eps"],
    }
    eos, pad = special["eos_token_id"], special["pad_token_id"]
    generation = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [eos, pad],
                  "pad_token_id": pad, "bos_token_id": pad}
    scheduler = {"_class_name": "DPMSolverMultistepScheduler", "_diffusers_version": "0.34.0",
                 "algorithm_type": "dpmsolver++", "final_sigmas_type": "zero", "flow_shift": 3.0,
                 "lower_order_final": True, "num_train_timesteps": 1000, "prediction_type": "flow_prediction",
                 "solver_order": 2, "solver_type": "midpoint", "timestep_spacing": "linspace",
                 "use_flow_sigmas": True}
    return {
        "config.json": main,
        "generation_config.json": generation,
        "transformer/config.json": {"_class_name": "SanaTransformer2DModel", "_diffusers_version": "0.34.0",
                                    **components.SANA},
        "vae/config.json": {"_class_name": "AutoencoderDC", "_diffusers_version": "0.34.0",
                            **{**components.VAE, "scaling_factor": scale}},
        "scheduler/scheduler_config.json": scheduler,
    }


def export(out, model, fit_on=1000):
    """Write the checkpoint of training folder `out` into folder `model`."""
    import train  # for the seed and weights of the data; train imports this module
    out, model = Path(out), Path(model)
    model.mkdir(parents=True, exist_ok=True)
    data = load_file(out / "data.safetensors")
    scale = round(float(data["scale"]), 5)
    tokenizer = text.build()
    tensors = collect(out)
    assert tensors["model.embed_tokens.weight"].shape[0] == tokenizer.get_vocab_size()
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    (model / "model.safetensors").chmod(0o644)
    text.save(tokenizer, model)
    files = configs(tokenizer.get_vocab_size(), text.special_ids(tokenizer), scale)
    grid = [components.GRID, components.GRID]
    files["diptych.json"] = {"image_grid": grid, "latent_size": grid, **SAMPLING,
                             "preview_rgb": preview_rgb(data["latents"][:fit_on], scale, train.DATA_SEED,
                                                        train.SCENE_WEIGHTS)}
    for name, content in files.items():
        path = model / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")
    count = sum(t.numel() for t in tensors.values())
    print(f"{len(tensors)} tensors, {count} parameters, "
          f"{sum(f.stat().st_size for f in model.rglob('*') if f.is_file()) / 2**20:.1f} MiB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--unpack", action="store_true")
    args = parser.parse_args()
    if args.unpack:
        unpack(args.model, args.out)
    else:
        export(args.out, args.model)
