"""reference.py - the published model, stage by stage, from a model directory.

Weights are used as stored and widened to float32 (or to the dtype asked for). Every stage with a
library class runs in that class: Qwen3ForCausalLM, SanaTransformer2DModel, AutoencoderDC,
FlowMatchEulerDiscreteScheduler, DPMSolverMultistepScheduler. The loop around them follows the
published inference script:

  prompt -> ids -> sampled image ids -> second pass over the whole sequence -> hidden states from the
  scale token on -> connector -> N guided steps, batch order [uncond, cond] -> autoencoder -> RGB.
"""

import glob
import json
import os
from contextlib import contextmanager

import diffusers
import numpy as np
import torch
import transformers
from accelerate import init_empty_weights
from diffusers import (AutoencoderDC, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler,
                       SanaTransformer2DModel)
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from modules import Connector, ImageTokenizer

# Both libraries warn about keys that the published files carry and the classes ignore on purpose.
diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.set_verbosity_error()

PROMPT = ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
          "Please generate image based on the following caption: {}<|im_end|>\n<|im_start|>assistant\n"
          "<im_start><S0>")

PUBLISHED_ENGINE = {"image_grid": [27, 27], "latent_size": [32, 32], "steps": 30, "guidance": 2.0,
                    "temperature": 1.0, "top_k": 1200, "top_p": 0.95}

PUBLISHED_SANA = {"in_channels": 32, "out_channels": 32, "num_attention_heads": 70, "attention_head_dim": 32,
                  "num_layers": 20, "num_cross_attention_heads": 20, "cross_attention_head_dim": 112,
                  "cross_attention_dim": 2240, "caption_channels": 2304, "mlp_ratio": 2.5,
                  "attention_bias": False, "sample_size": 32, "patch_size": 1,
                  "norm_elementwise_affine": False, "norm_eps": 1e-6, "interpolation_scale": None,
                  "guidance_embeds": False, "qk_norm": "rms_norm_across_heads", "timestep_scale": 1.0}

PUBLISHED_VAE = {"in_channels": 3, "latent_channels": 32, "attention_head_dim": 32,
                 "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
                 "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
                 "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
                 "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
                 "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
                 "decoder_layers_per_block": [3, 3, 3, 3, 3, 3],
                 "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
                 "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
                 "upsample_block_type": "interpolate", "downsample_block_type": "Conv",
                 "decoder_norm_types": "rms_norm", "decoder_act_fns": "silu", "scaling_factor": 0.41407}

PUBLISHED_SCHEDULER = {"num_train_timesteps": 1000, "flow_shift": 3.0, "use_flow_sigmas": True,
                       "prediction_type": "flow_prediction", "solver_order": 2, "solver_type": "midpoint",
                       "algorithm_type": "dpmsolver++", "final_sigmas_type": "zero",
                       "lower_order_final": True, "timestep_spacing": "linspace"}


def read_json(path, default=None):
    """The file's object, or `default` when it does not exist and a default was given."""
    if default is not None and not os.path.exists(path):
        return default
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def public_keys(config):
    """A configuration without the `_class_name` and `_diffusers_version` notes."""
    return {k: v for k, v in config.items() if not k.startswith("_")}


def read_tensors(directory, dtype, device):
    """All tensors of all shards, converted to one dtype."""
    tensors = {}
    for path in sorted(glob.glob(os.path.join(directory, "model*.safetensors"))):
        for name, tensor in load_file(path).items():
            tensors[name] = tensor.to(device=device, dtype=dtype)
    if not tensors:
        raise SystemExit(f"{directory}: no model*.safetensors")
    return tensors


@contextmanager
def seeded(seed):
    """Global generators seeded for the time of a block."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


class Reference:
    """One model directory, loaded. `device` and `dtype` are for all components."""

    def __init__(self, directory, dtype=torch.float32, device="cpu"):
        self.directory, self.dtype, self.device = directory, dtype, device
        self.config = read_json(os.path.join(directory, "config.json"))
        self.engine = {**PUBLISHED_ENGINE, **read_json(os.path.join(directory, "diptych.json"), {})}
        sub = lambda name, default: public_keys(read_json(os.path.join(directory, *name.split("/")), default))
        self.sana_config = sub("transformer/config.json", PUBLISHED_SANA)
        self.vae_config = sub("vae/config.json", PUBLISHED_VAE)
        self.scheduler_config = sub("scheduler/scheduler_config.json", PUBLISHED_SCHEDULER)
        self.tensors = read_tensors(directory, dtype, device)
        self.tokenizer = Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
        self.lm = self._load_lm()
        self.sana = self._load(SanaTransformer2DModel, self.sana_config, "model.sana.")
        self.vae = self._load(AutoencoderDC, self.vae_config, "model.sana_vae.")
        self.connector = self._load_connector("model.diffusion_connector.")
        self.scaling = self.vae.config.scaling_factor
        self.latent_shape = (self.sana.config.in_channels, *self.engine["latent_size"])
        self.image_tokens = self.engine["image_grid"][0] * self.engine["image_grid"][1]

    def set_size(self, width, height):
        """Another picture size, in pixels."""
        factor = self.vae.spatial_compression_ratio
        if width % factor or height % factor:
            raise SystemExit(f"size must be a multiple of {factor}")
        self.latent_shape = (self.latent_shape[0], height // factor, width // factor)

    # Loading.

    def _under(self, prefix):
        return {n[len(prefix):]: t for n, t in self.tensors.items() if n.startswith(prefix)}

    def _fill(self, module, state):
        module.load_state_dict(state, strict=True, assign=True)
        return module.to(self.device).eval().requires_grad_(False)

    def _load(self, cls, config, prefix):
        with init_empty_weights(include_buffers=False):
            module = cls(**config)
        return self._fill(module, self._under(prefix))

    def _load_lm(self):
        keys = ("hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
                "head_dim rms_norm_eps rope_theta max_position_embeddings attention_bias hidden_act "
                "tie_word_embeddings vocab_size").split()
        config = Qwen3Config(**{k: self.config[k] for k in keys if k in self.config})
        config._attn_implementation = "sdpa"
        with init_empty_weights(include_buffers=False):
            lm = Qwen3ForCausalLM(config)
        state = {n: t for n, t in self.tensors.items()
                 if n in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
                 or n.startswith("model.layers.")}
        if config.tie_word_embeddings:  # the embedding wins over a stored copy
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        lm = self._fill(lm, state)
        lm.tie_weights()
        return lm

    def _load_connector(self, prefix):
        state = self._under(prefix)
        outputs, inputs = state["0.weight"].shape
        with init_empty_weights(include_buffers=False):
            module = Connector(inputs, outputs)
        return self._fill(module, state)

    def load_edit_connector(self):
        """The connector of reference latents; only edit checkpoints have it."""
        return self._load_connector("model.und_image_vae_connector.")

    def load_image_tokenizer(self):
        """TA-Tok with sizes read off its tensors."""
        prefix = "model.vision_tower.vision_tower."
        state = self._under(prefix)
        patch = state["encoder.embeddings.patch_embedding.weight"]
        layers = {n.split(".")[3] for n in state if n.startswith("encoder.encoder.layers.")}
        codes, dim = state["bottleneck.regularizer.embedding.weight"].shape
        shape = {"hidden_size": patch.shape[0], "patch_size": patch.shape[-1],
                 "image_size": self.config.get("mm_vision_image_size", 384),
                 "num_attention_heads": self.config.get("mm_vision_heads", 16),
                 "num_hidden_layers": len(layers),
                 "intermediate_size": state["encoder.encoder.layers.0.mlp.fc1.weight"].shape[0],
                 "codes": codes, "code_dim": dim}
        with init_empty_weights(include_buffers=False):
            tower = ImageTokenizer(shape)
        return self._fill(tower, state)

    # The autoregressive panel.

    def prompt_ids(self, prompt):
        """Ids of the whole formatted prompt, ending with the image tag and the scale token."""
        return self.tokenizer.encode(PROMPT.format(prompt), add_special_tokens=False).ids

    @torch.no_grad()
    def sample(self, prompt_ids, greedy=False, seed=0, temperature=None, top_k=None, top_p=None):
        """Image ids drawn as the published script draws them; shorter when a stop token comes up."""
        config = GenerationConfig(**read_json(os.path.join(self.directory, "generation_config.json"), {}))
        engine = self.engine
        choice = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None} if greedy else {
            "do_sample": True,
            "temperature": engine["temperature"] if temperature is None else temperature,
            "top_k": engine["top_k"] if top_k is None else top_k,
            "top_p": engine["top_p"] if top_p is None else top_p}
        config.update(**choice, max_new_tokens=self.image_tokens)
        ids = torch.tensor([prompt_ids], device=self.device)
        with seeded(seed):
            out = self.lm.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return out[0, len(prompt_ids):].tolist()

    @torch.no_grad()
    def states(self, prompt_ids, image_ids):
        """Hidden [N+1, D] after the final norm from the scale token on, and logits [N+1, V] there:
        row k of the logits scores image token k+1."""
        ids = torch.tensor([list(prompt_ids) + list(image_ids)], device=self.device)
        hidden = self.lm.model(input_ids=ids).last_hidden_state[0, len(prompt_ids) - 1:]
        return hidden, self.lm.lm_head(hidden)

    @torch.no_grad()
    def states_incremental(self, prompt_ids, image_ids):
        """The same hidden states from prefill and one cached step per token: what an engine does."""
        ids = torch.tensor([list(prompt_ids)], device=self.device)
        out = self.lm.model(input_ids=ids, use_cache=True)
        rows = [out.last_hidden_state[0, -1:]]
        for token in image_ids:
            step = torch.tensor([[token]], device=self.device)
            out = self.lm.model(input_ids=step, past_key_values=out.past_key_values, use_cache=True)
            rows.append(out.last_hidden_state[0])
        return torch.cat(rows)

    # The diffusion panel.

    @torch.no_grad()
    def conditions(self, hidden):
        """Connector output for the states, and for zeros."""
        hidden = hidden.to(self.device, self.dtype)
        return self.connector(hidden), self.connector(torch.zeros_like(hidden))

    @torch.no_grad()
    def velocities(self, latent, conditions, timestep):
        """Velocity of one latent [C, h, w] with the unconditional and the conditional context."""
        context = torch.stack([conditions[1], conditions[0]])
        both = torch.stack([latent, latent]).to(self.device, self.dtype)
        time = timestep.to(self.device).expand(2)
        return self.sana(both, encoder_hidden_states=context, timestep=time).sample

    def noise(self, seed):
        """Initial noise from torch's generator; not the engine's stream."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.latent_shape, generator=generator).to(self.dtype).to(self.device)

    def scheduler(self, name, steps):
        """`euler` as the published script builds it from the scheduler file, or `dpm` as that file says."""
        if name == "euler":
            scheduler = FlowMatchEulerDiscreteScheduler.from_config(self.scheduler_config)
            scheduler.set_timesteps(steps, sigmas=np.linspace(1.0, 1 / steps, steps), device=self.device)
        else:
            scheduler = DPMSolverMultistepScheduler.from_config(self.scheduler_config)
            scheduler.set_timesteps(steps, device=self.device)
        return scheduler

    @torch.no_grad()
    def denoise(self, conditions, noise, steps, guidance, sampler="euler", on_step=None):
        """Guided denoising; `on_step(k, velocity, latent)` sees the guided velocity of step k and the
        latent after it."""
        scheduler = self.scheduler(sampler, steps)
        latent = noise.to(self.device, self.dtype)
        for k, timestep in enumerate(scheduler.timesteps):
            uncond, cond = self.velocities(latent, conditions, timestep)
            velocity = uncond + guidance * (cond - uncond)
            latent = scheduler.step(velocity, timestep, latent, return_dict=False)[0]
            if on_step:
                on_step(k, velocity, latent)
        return latent

    # The autoencoder.

    @torch.no_grad()
    def decode(self, latent):
        """Decoder output [3, H, W] of a final latent."""
        return self.vae.decode((latent / self.scaling)[None]).sample[0]

    @torch.no_grad()
    def encode(self, pixels):
        """Scaled latent of pixels [3, H, W] in [-1, 1]."""
        return self.vae.encode(pixels[None].to(self.device, self.dtype)).latent[0] * self.scaling


def to_rgb(pixels):
    """Decoder output [3, H, W] to u8 [H, W, 3], rounding half to even."""
    unit = (pixels / 2 + 0.5).clamp(0, 1).float().cpu().permute(1, 2, 0).numpy()
    return torch.from_numpy((unit * 255).round().astype(np.uint8))
