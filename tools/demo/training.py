"""tools/demo/training.py - what all training stages share: a time-boxed schedule, averaged weights, files, curves."""

import json
import math
import os
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def pick_device(name):
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def world():
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank():
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def join_workers(index, count, meeting):
    """One process per core, each with its share of the batch: on a busy machine far better than threads, which would
    wait for each other at every operation instead of once a step."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(index)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=index, world_size=count)


def half(device):
    """Matrix products in bfloat16, everything else in float32."""
    return torch.autocast(device.type, torch.bfloat16)


def orthogonal(g):
    """Nearest semi-orthogonal matrices to a stack [n, rows, columns], by five Newton-Schulz steps (Muon, 2024)."""
    x = g.bfloat16()
    if g.shape[-2] > g.shape[-1]:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if g.shape[-2] > g.shape[-1] else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix-shaped step is made orthogonal. Scaled so that AdamW's learning rates fit."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.01):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        """Workers share the stacks among them and add up what each has made."""
        for group in self.param_groups:
            stacks = {}
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["momentum"])
                stacks.setdefault((p.shape[0], p[0].numel()), []).append((p, p.grad.lerp(m, group["momentum"])))
            params = [p for pairs in stacks.values() for p, _ in pairs]
            flat = torch.zeros(sum(p.numel() for p in params), device=params[0].device)
            at = 0
            for (rows, columns), pairs in stacks.items():
                size = rows * columns
                mine = range(rank(), len(pairs), world())
                if mine:
                    steps = orthogonal(torch.stack([pairs[i][1].reshape(rows, columns) for i in mine]))
                    for i, step in zip(mine, steps):
                        flat[at + i * size:at + (i + 1) * size] = step.flatten()
                at += size * len(pairs)
            if world() > 1:
                torch.distributed.all_reduce(flat)
            for p, step in zip(params, flat.split([p.numel() for p in params])):
                scale = 0.2 * max(p.shape[0], p[0].numel()) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(step.view_as(p), alpha=-group["lr"] * scale)


class Stage:
    """One training run bounded by wall-clock minutes.

    The learning rate warms up, stays, and falls to zero along the *time* spent, so a slow or busy machine ends with a
    finished schedule too. Saves `<name>.safetensors` (averaged weights) and `<name>.jsonl` (losses) in `out`.
    """

    def __init__(self, out, name, modules, lr, minutes, decay=0.999, weight_decay=0.01, warmup=100, flat=0.3,
                 matrices=()):
        """`matrices` are the parameters that Muon moves; AdamW moves the others."""
        self.path = Path(out) / f"{name}.safetensors"
        self.log_path = Path(out) / f"{name}.jsonl"
        self.modules = modules
        self.lr, self.warmup, self.flat, self.decay = lr, warmup, flat, decay
        self.seconds = minutes * 60
        self.started = time.time()
        self.step = 0
        params = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        chosen = {id(p) for p in matrices}
        rest = [p for p in params if id(p) not in chosen]
        self.optimizers = [torch.optim.AdamW(
            [{"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
             {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0}],
            lr=lr, betas=(0.9, 0.95), fused=True)]
        if chosen:
            self.optimizers.append(Muon([p for p in params if id(p) in chosen], lr, weight_decay=weight_decay))
        self.params = params
        self.average = [p.detach().clone() for p in params]
        self.recent = {}
        self.shown = time.time()
        self.now = 0.0
        self.is_last = False

    def resume(self):
        """Continue from saved weights if there are any."""
        if self.path.exists():
            load_modules(self.path, self.modules, strict=False)
            for a, p in zip(self.average, self.params):
                a.copy_(p.detach())
            print(f"resumed {self.path.name}", flush=True)

    def progress(self):
        return (time.time() - self.started) / self.seconds

    def over(self):
        return self.is_last or (world() == 1 and self.progress() >= 1)

    def _agree(self):
        """Average gradients and clocks over all workers, so that every worker takes the same step."""
        self.now = self.progress()
        if world() > 1:
            flat = torch.cat([p.grad.flatten() for p in self.params] + [torch.tensor([self.now])])
            torch.distributed.all_reduce(flat)
            flat /= world()
            self.now = float(flat[-1])
            self.is_last = self.now >= 1
            parts = flat[:-1].split([p.numel() for p in self.params])
            torch._foreach_copy_([p.grad for p in self.params],
                                 [part.view_as(p) for part, p in zip(parts, self.params)])

    def update(self, loss, **shown):
        """One optimizer step from a loss; keeps the average and a line of log every few seconds."""
        for param in self.params:
            param.grad = None
        loss.backward()
        self._agree()
        p = min(1.0, self.now)
        fall = 1.0 if p < self.flat else 0.5 + 0.5 * math.cos(math.pi * (p - self.flat) / (1 - self.flat))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr * min(1.0, (self.step + 1) / self.warmup) * (0.02 + 0.98 * fall)
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        with torch.no_grad():
            decay = min(self.decay, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.params], 1 - decay)
        for key, value in {"loss": loss.detach(), **shown}.items():
            self.recent.setdefault(key, []).append(float(value))
        if time.time() - self.shown > 10 and rank() == 0:
            self.shown = time.time()
            line = {"step": self.step, "seconds": round(time.time() - self.started),
                    **{k: round(sum(v) / len(v), 5) for k, v in self.recent.items()}}
            self.recent = {}
            with open(self.log_path, "a") as f:
                f.write(json.dumps(line) + "\n")
            print(self.path.stem, line, flush=True)

    def save(self):
        """Write the averaged weights; training itself goes on with its own."""
        if rank() != 0:
            return
        own = [p.detach().clone() for p in self.params]
        with torch.no_grad():
            torch._foreach_copy_([p.data for p in self.params], self.average)
            save_modules(self.path, self.modules)
            torch._foreach_copy_([p.data for p in self.params], own)


def save_modules(path, modules):
    tensors = {f"{name}.{key}": value.detach().cpu().contiguous().clone()
               for name, module in modules.items() for key, value in module.state_dict().items()}
    temporary = Path(path).with_suffix(".tmp")
    save_file(tensors, temporary)
    temporary.replace(path)


def load_modules(path, modules, strict=True):
    """Fill modules from a file; when not strict, tensors that are missing or of another shape are left as they are."""
    tensors = load_file(path)
    for name, module in modules.items():
        own = {k[len(name) + 1:]: v for k, v in tensors.items() if k.startswith(name + ".")}
        if not strict:
            shapes = {k: v.shape for k, v in module.state_dict().items()}
            own = {k: v for k, v in own.items() if shapes.get(k) == v.shape}
        module.load_state_dict(own, strict=strict)


def plot(out):
    """Loss curves of every stage found in `out`, as curves.png beside them."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    logs = sorted(Path(out).glob("*.jsonl"))
    if not logs:
        return
    figure, axes = pyplot.subplots(1, len(logs), figsize=(4 * len(logs), 3), squeeze=False)
    for axis, log in zip(axes[0], logs):
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        for key in sorted({k for row in rows for k in row} - {"step", "seconds"}):
            axis.plot([row.get(key, math.nan) for row in rows], label=key)
        axis.set_title(log.stem)
        axis.set_xlabel("log line (one per 10 s)")
        axis.set_yscale("log")
        axis.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(Path(out) / "curves.png", dpi=80)
    pyplot.close(figure)
