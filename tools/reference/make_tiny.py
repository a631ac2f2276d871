"""make_tiny.py - write a tiny checkpoint in the published layout.

    python make_tiny.py --variant a --out DIR

The directory holds config.json, generation_config.json, tokenizer.json, model*.safetensors (with an
index when sharded), transformer/config.json, vae/config.json, scheduler/scheduler_config.json and
diptych.json. Tensor names and shapes come from the real library classes, so a layout mistake here
would have to be a mistake there. Equal variants give equal bytes.

Variants
  a  tied head, bf16, one file, strided-conv and interpolate autoencoder, square latent
  b  own head, three shards with index, f16 with an f32 autoencoder, patch size 2, latent 4x8
  c  tied head stored twice with a differing copy, bf16, pixel (un)shuffle autoencoder, latent 2x4
     (its first attention takes the quadratic branch), merges as two-element arrays
"""

import argparse
import json
import os

import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaTransformer2DModel
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

import recipes
import tiny_tokenizer
from modules import Connector, ImageTokenizer

PREFIXES = {
    "sana": "model.sana.",
    "vae": "model.sana_vae.",
    "vision": "model.vision_tower.vision_tower.",
    "connector": "model.diffusion_connector.",
    "edit": "model.und_image_vae_connector.",
}


def components(recipe):
    """Meta-device modules of every part, by prefix."""
    lm, sana = recipe["lm"], recipe["sana"]
    channels, context = recipe["vae"]["latent_channels"], sana["caption_channels"]
    with torch.device("meta"):
        return {
            "": Qwen3ForCausalLM(Qwen3Config(**lm)),
            PREFIXES["sana"]: SanaTransformer2DModel(**sana),
            PREFIXES["vae"]: AutoencoderDC(**recipe["vae"]),
            PREFIXES["vision"]: ImageTokenizer(recipe["vision"]),
            PREFIXES["connector"]: Connector(lm["hidden_size"], context),
            PREFIXES["edit"]: Connector(channels, context),
            "model.und_image_vae_as_noise_connector.": torch.nn.Sequential(
                torch.nn.Conv2d(2 * channels, channels, 1)),
        }


def tensor_shapes(recipe):
    """Name to shape for the whole checkpoint, in a fixed order."""
    shapes = {}
    for prefix, module in components(recipe).items():
        for name, tensor in module.state_dict().items():
            shapes[prefix + name] = tuple(tensor.shape)
    if recipe["lm"]["tie_word_embeddings"] and not recipe["extra_head"]:
        del shapes["lm_head.weight"]
    return shapes


def is_norm(name):
    """Norm tensors: by name, or the fourth entry of a connector."""
    return "norm" in name or name.endswith("connector.3.weight")


def initial(name, shape, generator):
    """One tensor: N(0, 1/fan_in) weights, small biases, norms around one, and a few special cases."""
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    if name.endswith("scale_layer.shift"):
        return torch.zeros(shape)
    if name.endswith("scale_layer.scale"):
        return torch.ones(shape)
    if name.endswith("connector.3.weight"):
        return 5.5**0.5 * (1 + 0.1 * noise)
    if name == "model.norm.weight":  # three: logits with some contrast although embeddings are short
        return 3 + 0.3 * noise
    if is_norm(name):
        return 0.1 * noise + (0 if name.endswith("bias") else 1)
    if name.endswith("bias"):
        return 0.02 * noise
    if name.endswith("scale_shift_table"):
        return noise / shape[-1] ** 0.5
    if name.startswith("model.layers.") and name.endswith(("o_proj.weight", "down_proj.weight")):
        return 3 * noise / shape[-1] ** 0.5
    if name.endswith("embedding.weight") and len(shape) == 2:
        return noise
    fan_in = noise[0].numel() if len(shape) > 1 else shape[0]
    return noise / fan_in**0.5


def token_matrix(name, shape, lm, generator):
    """Embedding or head. Image rows are three times as long as text rows, so that greedy decoding of
    a random model stays among image tokens; both are short enough that a tied model does not simply
    repeat its last token."""
    scale = torch.full((shape[0], 1), 0.05, dtype=torch.float64)
    scale[lm["image_start_token_id"] : lm["image_end_token_id"] + 1] = 0.15
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def stored_dtype(name, dtypes):
    """The dtype of the longest matching prefix."""
    prefix = max((p for p in dtypes if name.startswith(p)), key=len)
    return getattr(torch, dtypes[prefix])


def make_tensors(recipe):
    """All tensors, rounded to their stored dtype. Each draws from its own seeded generator, so that
    adding a tensor never changes another."""
    tensors = {}
    for index, (name, shape) in enumerate(sorted(tensor_shapes(recipe).items())):
        generator = torch.Generator().manual_seed(recipe["seed"] * 10007 + index)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensor = token_matrix(name, shape, recipe["lm"], generator)
        else:
            tensor = initial(name, shape, generator)
        tensors[name] = tensor.to(stored_dtype(name, recipe["dtypes"])).contiguous()
    return tensors


def write_tensors(directory, tensors, shards):
    """One file, or `shards` files of about equal bytes and their index."""
    if shards == 1:
        save_file(tensors, os.path.join(directory, "model.safetensors"), metadata={"format": "pt"})
        return
    total = sum(t.nbytes for t in tensors.values())
    groups, used = [{} for _ in range(shards)], 0
    for name in sorted(tensors):
        groups[min(used * shards // total, shards - 1)][name] = tensors[name]
        used += tensors[name].nbytes
    weight_map = {}
    for index, group in enumerate(groups):
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        save_file(group, os.path.join(directory, file), metadata={"format": "pt"})
        weight_map.update({name: file for name in group})
    write_json(os.path.join(directory, "model.safetensors.index.json"),
               {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def write_json(path, data):
    """JSON with a final newline."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=2)
        file.write("\n")


def write_scheduler(directory):
    """The scheduler file of the published model, written by the library itself: it describes a DPM
    solver, has no `shift`, and holds a bare -Infinity, which strict JSON parsers refuse."""
    DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", flow_shift=3.0, use_flow_sigmas=True,
        prediction_type="flow_prediction", solver_order=2, solver_type="midpoint",
        lower_order_final=True, final_sigmas_type="zero", timestep_spacing="linspace",
    ).save_pretrained(os.path.join(directory, "scheduler"))


def generation_config(lm):
    """What the published text model ships; the image model overrides all but the stop tokens."""
    return {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95,
            "bos_token_id": lm["bos_token_id"], "pad_token_id": lm["pad_token_id"],
            "eos_token_id": [lm["eos_token_id"], lm["pad_token_id"]]}


def write_checkpoint(directory, recipe):
    """Write the whole model directory."""
    os.makedirs(directory, exist_ok=True)
    vision = {"mm_vision_heads": recipe["vision"]["num_attention_heads"],
              "mm_vision_image_size": recipe["vision"]["image_size"]}
    files = {
        "config.json": {**recipe["lm"], **vision},
        "generation_config.json": generation_config(recipe["lm"]),
        "transformer/config.json": {"_class_name": "SanaTransformer2DModel", **recipe["sana"]},
        "vae/config.json": {"_class_name": "AutoencoderDC", **recipe["vae"]},
        "diptych.json": recipe["engine"],
    }
    for name, data in files.items():
        write_json(os.path.join(directory, name), data)
    write_scheduler(directory)
    tiny_tokenizer.write(os.path.join(directory, "tokenizer.json"), recipe["lm"]["num_image_tokens"],
                         recipe["merges_as_pairs"])
    tensors = make_tensors(recipe)
    write_tensors(directory, tensors, recipe["shards"])
    return sum(t.numel() for t in tensors.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variant", choices=sorted(recipes.TINY), required=True)
    parser.add_argument("--out", required=True, help="directory to write")
    args = parser.parse_args()
    count = write_checkpoint(args.out, recipes.TINY[args.variant])
    print(f"{args.out}: {count} parameters")


if __name__ == "__main__":
    main()
