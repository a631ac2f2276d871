"""tools/demo/train.py - trains the demo checkpoint from nothing.

    python tools/demo/train.py --out DIR [--device auto] [--stage all] [--minutes 120]

Stages, in order: `autoencoder`, `tokenizer`, `data` (captions, codes and latents of the training scenes, once),
`panels` (AR, connector and diffusion together), `polish` (the autoencoder's decoder), `export` (the checkpoint in
DIR/model). Each stage saves safetensors in DIR and starts from what is there, so a run can be stopped, moved to another
machine, and continued.
--minutes is the time for all stages together; they share it by SHARES.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import components
import export
import lean
import scenes
import text
import training

STAGES = ("autoencoder", "tokenizer", "data", "panels", "polish", "export")
SHARES = {"autoencoder": 0.13, "tokenizer": 0.07, "panels": 0.60, "polish": 0.12}
DATA_SEED = 1
GUIDED_FROM = 2  # the first block that can tell where it is: one step inward from the border for each convolution
PROMPT_MAX = 64  # tokens of the longest training prompt; ids are padded on the left to this
SCENE_WEIGHTS = (1, 1.5, 1.5, 2, 1.5, 1.5)  # over scenes.CATEGORIES


def draw_batch(seed, start, count, crop=None):
    """Images [count, 3, s, s] in [-1, 1]; with `crop`, a window of that size around one of the things."""
    images = []
    for index in range(start, start + count):
        scene = scenes.training_scene(seed, index, SCENE_WEIGHTS)
        image = scenes.draw(scene.background, scene.things)
        if crop:
            rng = np.random.Generator(np.random.Philox(key=[seed, index], counter=1 << 60))
            thing = scene.things[rng.integers(len(scene.things))]
            x, y = (int(np.clip(v + rng.normal(0, thing.r * 0.7) - crop / 2, 0, scenes.SIZE - crop))
                    for v in (thing.x, thing.y))
            image = image[y:y + crop, x:x + crop]
        images.append(image)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(made, wanted):
    """L1 and L2 of pixels and L1 of their differences, which is what keeps outlines sharp."""
    d = made - wanted
    return (d.abs().mean() + 2 * d.square().mean()
            + (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean())


def train_autoencoder(out, device, minutes, resume=True, decoder_only=False):
    """Mostly on 64-pixel windows, which are cheap; the last third on whole pictures.

    `decoder_only` keeps the latents, so it can follow the panels. It blurs what the decoder sees with a little noise:
    the diffusion panel's latents are not exact, and the decoder should answer with the clean shape next to them.
    """
    model = components.autoencoder().to(device, memory_format=torch.channels_last)
    if decoder_only:
        model.encoder.requires_grad_(False)
    stage = training.Stage(out, "autoencoder", {"vae": model}, lr=6e-4 if decoder_only else 2e-3, minutes=minutes,
                           decay=0.995)
    if resume:
        stage.resume()
    seen = 50_000_000 + (10_000_000 if decoder_only else 0)
    saved = 0
    while not stage.over():
        whole = decoder_only or stage.progress() > 0.65
        count = 8 if whole else 24
        images = draw_batch(DATA_SEED, seen, count, None if whole else 64)
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        seen += count
        with training.half(device):
            latent = model.encode(images).latent
            seen_latent = latent
            if decoder_only:
                strength = 0.15 * latent.square().mean().sqrt() * torch.rand(count, 1, 1, 1, device=device)
                seen_latent = latent + strength * torch.randn_like(latent)
            made = model.decode(seen_latent).sample
        made = made.float()
        mse = (made.detach().clamp(-1, 1) - images).square().mean()
        # a small pull keeps the latent centred and of even scale, which is what the diffusion panel likes
        pull = 1e-3 * latent.float().square().mean()
        stage.update(reconstruction_loss(made, images) + pull, mse=mse, latent=latent.float().square().mean().sqrt())
        if stage.progress() - saved > 0.1:
            saved = stage.progress()
            stage.save()
    stage.save()


class Painter(torch.nn.Module):
    """Throw-away head of the tokenizer: chosen entries to pixels.

    It sees a code and its eight neighbours only. A painter that sees the whole picture lets the codes of empty
    background carry news of far away things, which the AR panel then has to guess.
    """

    def __init__(self, width=256):
        super().__init__()
        self.patch = components.VISION["patch_size"]
        self.enter = torch.nn.Conv2d(components.CODE_WIDTH, width, 3, padding=1)
        self.mix = torch.nn.Conv2d(width, width, 1)
        self.leave = torch.nn.Conv2d(width, 3 * self.patch ** 2, 1)

    def forward(self, entries):
        x = entries.transpose(1, 2).unflatten(2, (components.GRID, components.GRID))
        x = F.gelu(self.enter(x))
        x = x + F.gelu(self.mix(x))
        return F.pixel_shuffle(self.leave(x), self.patch)


def train_tokenizer(out, device, minutes, resume=True):
    """Codes that let the painter redraw the picture; entries no one chose are pulled towards what is seen."""
    model, painter = components.Tokenizer().to(device), Painter().to(device)
    stage = training.Stage(out, "tokenizer", {"tower": model, "painter": painter}, lr=1.5e-3, minutes=minutes,
                           decay=0.99)
    if resume:
        stage.resume()
    patch = components.VISION["patch_size"]
    seen, used = 70_000_000, torch.zeros(components.CODES, device=device)
    saved = 0
    while not stage.over():
        images = draw_batch(DATA_SEED, seen, 32).to(device)
        seen += 32
        with training.half(device):
            y, codes, entries = model(images)
            straight = y + (entries - y).detach()
            made = painter(straight)
        commit = (entries.detach() - y).square().sum(-1).mean()
        book = (entries - y.detach()).square().sum(-1).mean()
        # patches with an outline in them, an eighth of all, should use the whole book, each decidedly; plain ones
        # need no more codes than there are colours, and splitting those would be noise for the AR panel to learn
        busy = images.unfold(2, patch, patch).unfold(3, patch, patch).std((4, 5)).amax(1).flatten() > 0.05
        edges = y.flatten(0, 1)[busy] @ model.bottleneck.regularizer.entries().float().T
        soft = (edges / 0.03).softmax(-1)
        mean = soft.mean(0)
        spread = (mean * (mean + 1e-9).log()).sum() - (soft * (soft + 1e-9).log()).sum(-1).mean() * 0.5
        used = 0.98 * used + 0.02 * torch.bincount(codes.flatten(), minlength=components.CODES)
        loss = reconstruction_loss(made.float(), images) + 0.1 * commit + 0.1 * book + 0.03 * spread
        stage.update(loss, pixels=(made.float() - images).square().mean(), commit=commit,
                     used=(used > 0.01).sum())
        if stage.progress() - saved > 0.1:
            saved = stage.progress()
            stage.save()
    stage.save()


def load(out, name, **modules):
    training.load_modules(out / f"{name}.safetensors", modules)


@torch.no_grad()
def encode_data(out, device, count):
    """Codes, latents, prompt ids and categories of the first `count` training scenes; extends what is there."""
    vae = components.autoencoder().to(device, memory_format=torch.channels_last).eval()
    tower = components.Tokenizer().to(device).eval()
    load(out, "autoencoder", vae=vae)
    training.load_modules(out / "tokenizer.safetensors", {"tower": tower}, strict=False)
    tokenizer = text.build()
    path = out / "data.safetensors"
    old = load_file(path) if path.exists() else {}
    parts = {"codes": [], "latents": [], "ids": [], "lengths": [], "categories": []}
    for start in range(len(old.get("codes", ())), count, 64):
        drawn = [scenes.training_scene(DATA_SEED, i, SCENE_WEIGHTS) for i in range(start, min(start + 64, count))]
        images = np.stack([scenes.draw(s.background, s.things) for s in drawn])
        images = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1).to(device)
        captions = [text.prompt_ids(tokenizer, s.caption) for s in drawn]
        with training.half(device):
            latents = vae.encode(images.contiguous(memory_format=torch.channels_last)).latent
        parts["latents"].append(latents.half().cpu().contiguous())
        parts["codes"].append(tower(images)[1].short().cpu())
        parts["ids"].append(torch.tensor([[0] * (PROMPT_MAX - len(c)) + c for c in captions], dtype=torch.int16))
        parts["lengths"].append(torch.tensor([len(c) for c in captions]))
        parts["categories"].append(torch.tensor([scenes.CATEGORIES.index(s.spec.category) for s in drawn]))
        if start % 6400 == 0:
            print("data", start, flush=True)
    data = {k: torch.cat(([old[k]] if old else []) + v) for k, v in parts.items()}
    data["scale"] = old["scale"] if old else 1 / data["latents"].float().square().mean().sqrt().reshape(1)
    save_file(data, path)


class Panels(torch.nn.Module):
    """The AR panel, the connector and the diffusion panel, as one thing to train."""

    def __init__(self, vocab_size):
        super().__init__()
        self.lm = components.language_model(vocab_size)
        self.connector = components.connector()
        self.sana = components.diffusion()

    def matrices(self):
        """Weight matrices inside the blocks; embeddings, tables, depthwise filters and ends are not among them."""
        return [p for name, p in self.named_parameters()
                if p.ndim > 1 and p[0].numel() > 64 and ("layers." in name or "transformer_blocks." in name)
                and "table" not in name]

    def forward(self, prefix, ids, lengths, codes, latents, special, drop=0.1, draws=3):
        """Cross-entropy of the image tokens, flow-matching loss under the states that predicted them, and the guide.

        The guide: SANA has no position embedding, so finding the image token that lies under a latent cell is the
        slowest thing to learn. It asks the first heads of the later blocks to attend there.

        Each picture is noised `draws` times, since the diffusion panel is the cheaper one.
        `prefix` are the tokens that every prompt starts with, `ids` the others, padded on the left. Runs in bfloat16
        on weights rounded for the occasion; the losses and the weights themselves are float32.
        """
        rounded = {name: p.bfloat16() for name, p in self.named_parameters()}

        def part(name):
            return {key[len(name) + 1:]: value for key, value in rounded.items() if key.startswith(name + ".")}

        count = codes.shape[1]
        target = codes.long() + special["image_start_token_id"]
        tokens = torch.cat([ids.long(), target], 1)
        is_real = torch.arange(tokens.shape[1], device=ids.device)[None] >= ids.shape[1] - lengths[:, None]
        weights = part("lm.model")
        states = lean.lm_states(weights, components.LM, tokens, is_real, prefix)[:, -count - 1:]
        logits = F.linear(states, weights["embed_tokens.weight"]).float()
        end = torch.full_like(target[:, :1], special["image_end_tag_id"])
        words = F.cross_entropy(logits.flatten(0, 1), torch.cat([target, end], 1).flatten())

        keep = (torch.rand(len(states), 1, 1, device=ids.device) >= drop).to(states.dtype)
        context = lean.connect(part("connector"), states * keep)
        latents = latents.repeat_interleave(draws, 0)
        uniform = torch.rand(len(latents), device=ids.device)
        sigma = torch.where(torch.rand_like(uniform) < 0.5, uniform, torch.randn_like(uniform).mul(1.2).sigmoid())
        noise = torch.randn_like(latents)
        s = sigma[:, None, None, None]
        noisy = ((1 - s) * latents + s * noise).to(states.dtype)
        velocity, guide = lean.sana_velocity(part("sana"), components.SANA, noisy, context, sigma * 1000, GUIDED_FROM)
        guide = (guide * keep[:, 0, 0].float()).mean()
        return words, (velocity.float() - (noise - latents)).square().mean(), guide


def panels_worker(index, count, meeting, *rest):
    training.join_workers(index, count, meeting)
    train_panels(*rest)


def train_panels(out, device, minutes, mix, draws, batch, resume=True):
    """`mix` are the shares of scenes.CATEGORIES. `batch` is per worker."""
    tokenizer = text.build()
    special = text.special_ids(tokenizer)
    data = load_file(out / "data.safetensors")
    prefix = torch.tensor(text.prefix_ids(tokenizer))
    panels = Panels(tokenizer.get_vocab_size()).to(device)
    stage = training.Stage(out, "panels", {"panels": panels}, lr=2e-3, minutes=minutes, decay=0.995, warmup=40,
                           matrices=panels.matrices())
    if resume:
        stage.resume()
    categories = data["categories"]
    chances = (torch.tensor(mix) / torch.bincount(categories, minlength=len(mix)).clamp(min=1))[categories]
    generator = torch.Generator().manual_seed(int(time.time()) * 64 + training.rank())
    saved = 0
    while not stage.over():
        rows = torch.multinomial(chances, batch, replacement=True, generator=generator)
        lengths = data["lengths"][rows] - len(prefix)
        ids = data["ids"][rows][:, -int(lengths.max()):]
        words, flow, guide = panels(prefix.to(device), ids.to(device), lengths.to(device), data["codes"][rows].to(device),
                             (data["latents"][rows].float() * data["scale"]).to(device), special, draws=draws)
        stage.update(words + flow + 0.2 * guide, words=words, flow=flow, guide=guide)
        if stage.progress() - saved > 0.1:
            saved = stage.progress()
            stage.save()
    stage.save()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--stage", default="all", choices=("all",) + STAGES)
    parser.add_argument("--minutes", type=float, default=120, help="for all stages; with --stage, for that one")
    parser.add_argument("--scenes", type=int, default=60000, help="training scenes to encode in stage `data`")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64, help="stage panels: pictures a step, over all workers")
    parser.add_argument("--workers", type=int, default=1, help="stage panels: processes, for the CPU")
    parser.add_argument("--mix", type=float, nargs=6, default=SCENE_WEIGHTS, help="stage panels: shares of categories")
    parser.add_argument("--draws", type=int, default=3, help="stage panels: noises per picture; 1 favours the AR panel")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # averaged and decayed values otherwise drift into slow denormals
    device = training.pick_device(args.device)
    share = (lambda stage: args.minutes * SHARES.get(stage, 0)) if args.stage == "all" else (lambda _: args.minutes)
    for stage in STAGES if args.stage == "all" else (args.stage,):
        if stage in ("autoencoder", "polish"):
            train_autoencoder(args.out, device, share(stage), decoder_only=stage == "polish")
        elif stage == "tokenizer":
            train_tokenizer(args.out, device, share(stage))
        elif stage == "data":
            encode_data(args.out, device, args.scenes)
        elif stage == "panels":
            rest = (args.out, device, share(stage), args.mix, args.draws, args.batch // args.workers)
            if args.workers == 1:
                train_panels(*rest)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    torch.multiprocessing.spawn(panels_worker, (args.workers, f"{folder}/meeting") + rest,
                                                nprocs=args.workers)
        elif stage == "export":
            export.export(args.out, args.out / "model")
        training.plot(args.out)


def keep_freed_memory():
    """On the CPU, page faults of freshly mapped tensors cost more than the arithmetic; glibc reads this at start."""
    wanted = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "16000000000",
              "MALLOC_TOP_PAD_": "268435456"}
    if sys.platform == "linux" and "MALLOC_TOP_PAD_" not in os.environ:
        os.execve(sys.executable, [sys.executable] + sys.argv, {**os.environ, **wanted})


if __name__ == "__main__":
    keep_freed_memory()
    main()
