"""peers.py - what a machine's own PyTorch takes for each stage, eager and compiled, on random weights of true shapes.

    python peers.py --part ar-0.6b|ar-1.7b|diffusion|decode [--device cuda|cpu] [--tiny] [--seconds N]
    python peers.py --compare DIR

The first prints one JSON line for each measurement as soon as it stands, so that a run that is cut short keeps what it
has: {"part", "stage", "mode", "ms", "note"}. The loops are the published ones: transformers' generate with sampling; the
diffusers transformer on both branches of guidance, the condition given, Euler steps; AutoencoderDC.decode. bf16 on a GPU.
What --tiny measures is nothing but whether the loops run.

The second reads bench_*.log (`diptych bench --json`) and peers_*.log of a folder and prints a table: each stage here, its
share of the bound measured in the same run, each peer, and ours over theirs (below 1: we are faster).
"""

import argparse
import contextlib
import json
import signal
import sys
import time
from pathlib import Path

REPEATS = 5
TOKENS = 48  # timed of one generate; the context before them makes their mean that of a picture's 729
CONTEXT = 469
PICTURE_TOKENS, STEPS, GUIDANCE, CONDITION = 729, 30, 2.0, 730
SIZES = {"ar-0.6b": (1024, 3072), "ar-1.7b": (2048, 6144)}


@contextlib.contextmanager
def attempt(args, stage, mode):
    """What cannot be measured, or not in time, is a line that says so; the next mode has its turn."""
    signal.setitimer(signal.ITIMER_REAL, max(1.0, args.until - time.monotonic()))
    try:
        yield
    except Exception as why:
        say(args.part, stage, mode, None, " ".join(f"{type(why).__name__}: {why}".split())[:120])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def ring(signum, frame):
    raise TimeoutError("the time of this part is over")


def say(part, stage, mode, ms, note=""):
    print(json.dumps({"part": part, "stage": stage, "mode": mode, "ms": ms, "note": note}), flush=True)


def best_ms(torch, device, run, until, repeats=REPEATS):
    """The best of some repeats behind two that warm up (and compile); at least one is timed."""
    times = []
    for i in range(repeats + 2):
        if times and time.monotonic() > until:
            break
        begun = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        if i >= 2 or time.monotonic() > until:
            times.append((time.perf_counter() - begun) * 1e3)
    return min(times)


# ---- the first panel ----


def ar(args, torch):
    import transformers

    hidden, intermediate = SIZES[args.part]
    layers, vocab, context = 28, 217210, CONTEXT
    if args.tiny:
        hidden, intermediate, layers, vocab, context = 64, 128, 2, 512, 16
    config = transformers.Qwen3Config(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, vocab_size=vocab, tie_word_embeddings=True, max_position_embeddings=40960,
        rope_theta=1e6, bos_token_id=None, eos_token_id=None, pad_token_id=0)  # fmt: skip
    with torch.device(args.device):
        torch.set_default_dtype(args.dtype)
        model = transformers.Qwen3ForCausalLM(config).eval()

    def tokens(batch, count, **more):
        prompt = torch.randint(1, vocab, (batch, context), device=args.device)
        return model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=True, temperature=1.0, top_k=1200, top_p=0.95,
            min_new_tokens=count, max_new_tokens=count, **more)  # fmt: skip

    def measure(mode, batch, **more):
        stage = f"ar.decode.b{batch}"
        with attempt(args, stage, mode):
            one = best_ms(torch, args.device, lambda: tokens(batch, 1, **more), args.until, 3)
            many = best_ms(torch, args.device, lambda: tokens(batch, 1 + TOKENS, **more), args.until, 3)
            say(args.part, stage, mode, (many - one) / TOKENS, f"a step, context {context}")

    for batch in (1, 64):
        measure("eager", batch)
    model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
    measure("compiled", 1, cache_implementation="static")
    measure("compiled", 64, cache_implementation="static")


# ---- the second panel ----


def diffusion(args, torch):
    from diffusers import SanaTransformer2DModel

    sys.path.insert(0, str(Path(__file__).parent))
    from recipes import sana_config

    config, edge, steps, rows = sana_config(32, 70, 32, 20, 2304, 20, 1, 32), 32, STEPS, CONDITION
    if args.tiny:
        config, edge, steps, rows = sana_config(8, 4, 8, 2, 16, 2, 1, 8), 8, 3, 5
    with torch.device(args.device):
        torch.set_default_dtype(args.dtype)
        model = SanaTransformer2DModel(**config).eval()
    channels = config["in_channels"]
    noise = torch.randn(1, channels, edge, edge, device=args.device, dtype=args.dtype)
    states = torch.randn(1, rows, config["caption_channels"], device=args.device, dtype=args.dtype)
    both = torch.cat([torch.zeros_like(states), states])
    sigmas = torch.linspace(1.0, 0.0, steps + 1).tolist()

    def picture(step):
        latent = noise
        for now, then in zip(sigmas, sigmas[1:]):
            t = torch.full((2,), 1000.0 * now, device=args.device)
            null, cond = step(torch.cat([latent, latent]), both, timestep=t, return_dict=False)[0].chunk(2)
            latent = latent + (then - now) * (null + GUIDANCE * (cond - null))
        return latent

    note = f"{steps} guided steps, latent {edge} x {edge}"
    for mode in ("eager", "compiled"):
        step = model if mode == "eager" else torch.compile(model, mode="reduce-overhead")
        with attempt(args, "diffusion", mode):
            ms = best_ms(torch, args.device, lambda step=step: picture(step), args.until)
            say(args.part, "diffusion", mode, ms, note)


# ---- the decoder ----


def decode(args, torch):
    from diffusers import AutoencoderDC

    sys.path.insert(0, str(Path(__file__).parent))
    from recipes import vae_config

    types, edge = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3, 32
    config = vae_config(32, 32, [128, 256, 512, 512, 1024, 1024], types, [2, 2, 2, 3, 3, 3], [3] * 6,
                        "Conv", "interpolate")  # fmt: skip
    if args.tiny:
        types, edge = ["ResBlock", "EfficientViTBlock"], 4
        config = vae_config(8, 8, [16, 32], types, [1, 1], [1, 1], "Conv", "interpolate")
    with torch.device(args.device):
        torch.set_default_dtype(args.dtype)
        model = AutoencoderDC(**config).eval()
    latent = torch.randn(1, config["latent_channels"], edge, edge, device=args.device, dtype=args.dtype)
    side = edge * 2 ** (len(types) - 1)
    note = f"{side} x {side} pixels"

    for mode in ("eager", "channels-last", "compiled"):
        if mode == "channels-last":
            model = model.to(memory_format=torch.channels_last)
            latent = latent.to(memory_format=torch.channels_last)
        step = torch.compile(model.decode, mode="reduce-overhead") if mode == "compiled" else model.decode
        with attempt(args, "vae.decode", mode):
            ms = best_ms(torch, args.device, lambda step=step: step(latent, return_dict=False), args.until)
            say(args.part, "vae.decode", mode, ms, note)


# ---- the table ----


def json_lines(path):
    for line in path.read_text(errors="replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def ours(folder):
    """Rows of every bench by (part, stage): milliseconds and share of the bound."""
    logs = {"ar-0.6b": "bench_ar_qwen3-0.6b", "ar-1.7b": "bench_ar_qwen3-1.7b", "decode": "bench_decode_dcae",
            "diffusion": "bench_e2e_full"}  # fmt: skip
    rows = {}
    for part, name in logs.items():
        path = folder / f"{name}.log"
        text = path.read_text(errors="replace") if path.exists() else ""
        try:
            report = json.loads(text[text.index("{") :])
        except ValueError:
            continue  # not run, or cut short
        for row in report["rows"]:
            stage = "diffusion" if row["name"] == "e2e.diffusion" else row["name"]
            if row["unit"] == "ms":
                rows[part, stage] = row["value"], row["share"]
    return rows


def compare(folder):
    mine = ours(folder)
    peers = {}
    for path in sorted(folder.glob("peers_*.log")):
        for line in json_lines(path):
            peers.setdefault((line["part"], line["stage"]), []).append(line)
    print(f"{'stage':<26} {'ours ms':>9} {'of bound':>8}  {'peer':<24} {'theirs ms':>9} {'ours/theirs':>11}")
    for part, stage in sorted(set(peers) | {k for k in mine if k[1] in ("diffusion", "vae.decode")}):
        value, share = mine.get((part, stage), (None, None))
        left = f"{part + ' ' + stage:<26} " + (f"{value:9.3f} {100 * share:6.1f} %" if value else f"{'-':>9} {'-':>8}")
        for line in peers.get((part, stage), [None]):
            if not line:
                print(f"{left}  {'not measured':<24}")
                continue
            peer = f"{left}  {'PyTorch ' + line['mode']:<24}"
            if line["ms"] is None:
                print(f"{peer} {'-':>9} {'-':>11}  {line['note']}")
                continue
            print(f"{peer} {line['ms']:9.3f} " + (f"{value / line['ms']:11.3f}" if value else f"{'-':>11}"))
    return 0 if peers else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=[*SIZES, "diffusion", "decode"])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--compare", type=Path)
    args = parser.parse_args()
    if args.compare:
        return compare(args.compare)
    import torch

    args.until = time.monotonic() + args.seconds
    signal.signal(signal.SIGALRM, ring)
    args.dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    print(f"torch {torch.__version__}, {args.part} on {args.device}", file=sys.stderr)
    torch.manual_seed(1)
    with torch.inference_mode():
        (ar if args.part in SIZES else diffusion if args.part == "diffusion" else decode)(args, torch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
