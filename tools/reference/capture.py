"""capture.py - golden tensors of one model directory, stage by stage, in float32.

    python capture.py --model DIR --out golden.safetensors [--notes golden.md]

--notes also captures in float64 and writes how far the two are apart, beside the tolerances.

Floats are f32, ids and codes i32, images u8. N image tokens, V vocabulary, D width of the AR panel,
C context width, d width of the diffusion panel, c x h x w latent, n latent patches (raster order),
H x W picture. Images and latents are channels-first except u8 pictures (H, W, 3).

AR panel and connector. Scenario S is `greedy` (short prompt, argmax) or `forced` (long prompt with
accents and other scripts, seeded random image ids, teacher-forced):
  S/prompt_ids [P]   S/image_ids [N]    the whole prompt, and the ids after it (vocabulary ids)
  S/hidden [N+1, D]                     after the final norm, from the scale token on
  S/logits [N+1, V]                     row k scores image token k+1; row 0 is the logits of the prefill
  S/condition [N+1, C]                  connector output
  S/condition_uncond [N+1, C]           connector output of zeros: all rows equal

Diffusion panel, one forward at each of three timesteps T, context forced/condition[_uncond]:
  dit/timesteps [3]  dit/noise [c, h, w]             the inputs
  dit/sinusoid [3, 256]  dit/time_e [3, d]  dit/time_m [3, 6d]    time embedding: sinusoid, e, m
  dit/caption [N+1, d]  dit/caption_uncond [N+1, d]  projected and normalized context
  dit/patches [n, d]                                 patch embedding
  dit/T/B/block, dit/T/B/block_uncond [n, d]         output of block B
  dit/T/B/attn1, attn2, ff [n, d]                    its parts before gate and residual, conditional
  dit/T/velocity, dit/T/velocity_uncond [c, h, w]    before guidance

Sampling. Scenario S is `euler4`, `euler30`, `dpm4`, `dpm20`; contexts as above:
  S/guidance [1]  S/timesteps [N]  S/sigmas [N+1]
  S/noise [c, h, w]                 the initial latent
  S/velocity.K, S/latent.K          guided velocity of step K, and the latent after step K
  S/latent [c, h, w]                final, equal to S/latent.(N-1), before division by the scaling factor
  S/image [H, W, 3]                 euler scenarios: the picture

Autoencoder, on euler4/latent:
  vae/latent [c, h, w]              divided by the scaling factor
  vae/conv_in, vae/stage.I          after the first convolution with its shortcut, and after decoder stage I
  vae/norm_out                      the last norm, before its ReLU
  vae/pixels [3, H, W]  vae/image [H, W, 3]
  vae/encode_pixels [3, H, W]       a picture in [-1, 1]
  vae/encoded [c, h, w]             its latent, times the scaling factor

Image tokenizer and editing:
  vision/image [h0, w0, 3]  vision/pixels [3, s, s]   a picture, and it resized and normalized
  vision/embedded, vision/features, vision/task, vision/bottleneck   rows of the stages
  vision/similarities [patches, codes]   vision/codes [patches]
  edit/latent [c, h, w]  edit/rows [h*w, C]           reference latent (vae/encoded), its context rows
  edit4/...                         as `euler4` on the canvas [c, h, 2w]: velocity.K covers the whole
                                    canvas, latent.K and latent the left half
"""

import argparse

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import notes
from reference import Reference, to_rgb

GREEDY_PROMPT = "a red circle"
FORCED_PROMPT = ("  Two  blue squares & the cafe\u0301 \u201cna\u00efve\u201d sign, it's 12345 o'clock;\n\n"
                 "\u732b\u304c\u3044\u308b \u0645\u0631\u062d\u0628\u0627 \U0001f468\u200d\U0001f469\u200d\U0001f467 !")
GUIDANCE = {"euler4": 2.0, "euler30": 2.0, "dpm4": 4.5, "dpm20": 4.5}
SEED = 1234


def generator(offset):
    """A seeded generator per use, so that adding a key changes no other."""
    return torch.Generator().manual_seed(SEED + offset)


class Taps:
    """Records outputs (or first inputs) of modules by name while a forward runs."""

    def __init__(self):
        self.seen, self.handles = {}, []

    def output(self, name, module):
        hook = lambda _m, _i, out: self.seen.__setitem__(name, out)
        self.handles.append(module.register_forward_hook(hook))

    def input(self, name, module):
        hook = lambda _m, args: self.seen.__setitem__(name, args[0])
        self.handles.append(module.register_forward_pre_hook(hook))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def check_margin(logits, ids):
    """Greedy ids must not hang on rounding: the best logit leads the second clearly."""
    best = logits[: len(ids)].topk(2).values
    assert (best[:, 0] - best[:, 1]).min() > 1e-3, "near tie: choose another seed"


def capture_ar(model, golden, name, prompt_ids, image_ids):
    """The AR panel and the connector for one sequence."""
    hidden, logits = model.states(prompt_ids, image_ids)
    again = model.states_incremental(prompt_ids, image_ids)
    assert (again - hidden).norm() / hidden.norm() < 1e-5, "cached steps disagree with the full pass"
    condition, uncond = model.conditions(hidden)
    golden[f"{name}/prompt_ids"] = torch.tensor(prompt_ids, dtype=torch.int32)
    golden[f"{name}/image_ids"] = torch.tensor(image_ids, dtype=torch.int32)
    golden[f"{name}/hidden"], golden[f"{name}/logits"] = hidden, logits
    golden[f"{name}/condition"], golden[f"{name}/condition_uncond"] = condition, uncond
    return condition, uncond


def capture_sequences(model, golden):
    """Both AR scenarios; returns the contexts of the forced one."""
    ids = model.prompt_ids(GREEDY_PROMPT)
    drawn = model.sample(ids, greedy=True)
    capture_ar(model, golden, "greedy", ids, drawn)
    check_margin(golden["greedy/logits"], drawn)
    assert golden["greedy/logits"][: len(drawn)].argmax(-1).tolist() == drawn
    first, count = model.config["image_start_token_id"], model.config["num_image_tokens"]
    codes = torch.randint(count, (model.image_tokens,), generator=generator(1))
    return capture_ar(model, golden, "forced", model.prompt_ids(FORCED_PROMPT), (codes + first).tolist())


def tap_sana(taps, sana):
    """Taps of everything the diffusion goldens record."""
    taps.output("patches", sana.patch_embed)
    taps.output("caption", sana.caption_norm)
    taps.input("sinusoid", sana.time_embed.emb.timestep_embedder)
    taps.output("e", sana.time_embed.emb.timestep_embedder)
    taps.output("m", sana.time_embed.linear)
    for index, block in enumerate(sana.transformer_blocks):
        taps.output(f"{index}/block", block)
        taps.output(f"{index}/attn1", block.attn1)
        taps.output(f"{index}/attn2", block.attn2)
        taps.output(f"{index}/ff", block.ff)


def capture_dit(model, golden, conditions):
    """One forward at three timesteps, both branches, with block outputs."""
    times = torch.tensor([1000.0, np.float32(1 - 1 / 30) * 1000, np.float32(1 / 30) * 1000], dtype=torch.float32)
    noise = torch.randn(model.latent_shape, generator=generator(2))
    golden["dit/timesteps"], golden["dit/noise"] = times, noise
    rows = {"sinusoid": [], "e": [], "m": []}
    for index, time in enumerate(times):
        with Taps() as taps:
            tap_sana(taps, model.sana)
            out = model.velocities(noise, conditions, time)
        golden[f"dit/{index}/velocity_uncond"], golden[f"dit/{index}/velocity"] = out
        for row in rows:
            rows[row].append(taps.seen[row][1])
        for name, value in taps.seen.items():
            if name.endswith("/ff"):
                value = value.flatten(2).transpose(1, 2)
            if "/" in name:
                golden[f"dit/{index}/{name}"] = value[1]
            if name.endswith("/block"):
                golden[f"dit/{index}/{name}_uncond"] = value[0]
    golden["dit/sinusoid"] = torch.stack(rows["sinusoid"])
    golden["dit/time_e"], golden["dit/time_m"] = torch.stack(rows["e"]), torch.stack(rows["m"])
    golden["dit/patches"] = taps.seen["patches"][1]
    golden["dit/caption_uncond"], golden["dit/caption"] = taps.seen["caption"]


def capture_sampling(model, golden, conditions):
    """Whole denoising runs with injected noise."""
    for index, (name, guidance) in enumerate(GUIDANCE.items()):
        sampler, steps = ("euler", int(name[5:])) if name.startswith("euler") else ("dpm", int(name[3:]))
        noise = torch.randn(model.latent_shape, generator=generator(10 + index))
        schedule = model.scheduler(sampler, steps)
        golden[f"{name}/guidance"] = torch.tensor([guidance])
        golden[f"{name}/timesteps"] = schedule.timesteps.float()
        golden[f"{name}/sigmas"] = schedule.sigmas.float()
        golden[f"{name}/noise"] = noise

        def record(k, velocity, latent):
            golden[f"{name}/velocity.{k}"], golden[f"{name}/latent.{k}"] = velocity, latent

        golden[f"{name}/latent"] = model.denoise(conditions, noise, steps, guidance, sampler, record)
        if sampler == "euler":
            golden[f"{name}/image"] = to_rgb(model.decode(golden[f"{name}/latent"]))


def capture_decoder(model, golden):
    """The decoder's stages on the final latent of `euler4`."""
    latent = golden["euler4/latent"]
    decoder = model.vae.decoder
    with Taps() as taps:
        taps.input("conv_in", decoder.up_blocks[-1])
        for index, stage in enumerate(decoder.up_blocks):
            taps.output(f"stage.{index}", stage)
        taps.output("norm_out", decoder.norm_out)
        pixels = model.decode(latent)
    taps.seen["norm_out"] = taps.seen["norm_out"].movedim(-1, 1)  # the class norms channels-last
    golden["vae/latent"] = latent / model.scaling
    for name, value in taps.seen.items():
        golden[f"vae/{name}"] = value[0]
    golden["vae/pixels"], golden["vae/image"] = pixels, to_rgb(pixels)


def picture(height, width, offset):
    """A smooth seeded picture with an edge in it, u8 [height, width, 3]."""
    coarse = torch.rand(1, 3, 5, 5, generator=generator(offset))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    smooth[..., height // 3 :, width // 2 :] = 1 - smooth[..., height // 3 :, width // 2 :]
    return (smooth[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def capture_encoder(model, golden):
    """The encoder on a picture of exactly the model's size."""
    height, width = golden["vae/image"].shape[:2]
    pixels = picture(height, width, 20).permute(2, 0, 1).float() / 127.5 - 1
    golden["vae/encode_pixels"], golden["vae/encoded"] = pixels, model.encode(pixels)


@torch.no_grad()
def capture_vision(model, golden):
    """The image tokenizer on a picture whose aspect ratio is squashed."""
    tower = model.load_image_tokenizer()
    side = tower.encoder.config.image_size
    image = picture(37, 29, 21)
    resized = np.asarray(Image.fromarray(image.numpy()).resize((side, side), Image.BICUBIC))
    pixels = (torch.from_numpy(resized.astype(np.float32)).permute(2, 0, 1) * (1 / 255) - 0.5) / 0.5
    golden["vision/image"] = image
    for name, value in tower.stages(pixels[None].to(model.dtype)).items():
        golden[f"vision/{name}"] = value


@torch.no_grad()
def capture_edit(model, golden, conditions):
    """Four guided steps with a reference latent: as context rows, and beside the noisy latent."""
    reference = golden["vae/encoded"]
    rows = model.load_edit_connector()(reference.permute(1, 2, 0).flatten(0, 1))
    golden["edit/latent"], golden["edit/rows"] = reference, rows
    contexts = torch.cat([conditions[0], rows]), torch.cat([conditions[1], torch.zeros_like(rows)])
    latent = torch.randn(model.latent_shape, generator=generator(30))
    golden["edit4/noise"], golden["edit4/guidance"] = latent, torch.tensor([2.0])
    schedule, width = model.scheduler("euler", 4), latent.shape[-1]
    for k, time in enumerate(schedule.timesteps):
        canvas = torch.cat([latent, reference], dim=-1)
        uncond, cond = model.velocities(canvas, contexts, time)
        velocity = uncond + 2.0 * (cond - uncond)
        latent = schedule.step(velocity, time, canvas, return_dict=False)[0][..., :width]
        golden[f"edit4/velocity.{k}"], golden[f"edit4/latent.{k}"] = velocity, latent
    golden["edit4/latent"] = latent


def capture(model):
    """All golden tensors of a model, by key."""
    golden = {}
    conditions = capture_sequences(model, golden)
    capture_dit(model, golden, conditions)
    capture_sampling(model, golden, conditions)
    capture_decoder(model, golden)
    capture_encoder(model, golden)
    capture_vision(model, golden)
    capture_edit(model, golden, conditions)
    return {name: tensor.detach().contiguous().clone() for name, tensor in golden.items()}


def exact_stages(double, golden, exact):
    """The float64 capture, its single stages redone on the float32 inputs that their limits suppose."""
    for name in ("greedy", "forced"):
        exact[f"{name}/condition"] = double.conditions(golden[f"{name}/hidden"])[0]
    rows = golden["edit/latent"].permute(1, 2, 0).flatten(0, 1).to(double.dtype)
    exact["edit/rows"] = double.load_edit_connector()(rows)
    return exact


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--out", required=True, help="safetensors file to write")
    parser.add_argument("--notes", help="Markdown file to write about it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    golden = capture(Reference(args.model))
    save_file(golden, args.out)
    if args.notes:
        double = Reference(args.model, torch.float64)
        notes.write(args.notes, golden, exact_stages(double, golden, capture(double)))
    print(f"{args.out}: {len(golden)} tensors, {sum(t.nbytes for t in golden.values())} bytes")


if __name__ == "__main__":
    main()
