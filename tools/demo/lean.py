"""tools/demo/lean.py - forward passes of the two panels for training on a CPU, on plain dictionaries of weights.

The same functions as the public classes (test_lean.py compares them), with what training does not need left out:
no masks beyond the causal one and the pads, no repeated key-value heads, no copies to float32 around every norm,
and the fixed start of the prompt computed once a step instead of once a picture. About half the time per step.
"""

import math

import torch
from torch.nn import functional as F


def rms_norm(x, weight, eps):
    """x / rms(x) * weight; the sum of squares is float32 whatever x is."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return x * torch.rsqrt(norm.square() / x.shape[-1] + eps).to(x.dtype) * weight


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def angles(places, head_dim, theta, dtype):
    """cos and sin [..., head_dim] of positions [...]."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=places.device).float() / head_dim)
    angle = places.float()[..., None] * frequency
    angle = torch.cat([angle, angle], -1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def lm_block(x, w, cos, sin, bias, c, before=None):
    """One Qwen3 layer. x [B, T, H]; bias [B or 1, 1, 1, T, S] is added to scores; `before` holds keys and values of
    the tokens in front, [1, kv, S - T, d] each. Returns x and this layer's keys and values."""
    batch, length, _ = x.shape
    heads, kv, d, eps = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"], c["rms_norm_eps"]
    h = rms_norm(x, w["input_layernorm.weight"], eps)
    q = F.linear(h, w["self_attn.q_proj.weight"]).view(batch, length, heads, d)
    k = F.linear(h, w["self_attn.k_proj.weight"]).view(batch, length, kv, d)
    v = F.linear(h, w["self_attn.v_proj.weight"]).view(batch, length, kv, d)
    cos, sin = cos[:, :, None], sin[:, :, None]
    q = rotate(rms_norm(q, w["self_attn.q_norm.weight"], eps), cos, sin)
    k = rotate(rms_norm(k, w["self_attn.k_norm.weight"], eps), cos, sin).transpose(1, 2)
    v = v.transpose(1, 2)
    here = k, v
    if before is not None:
        k = torch.cat([before[0].expand(batch, -1, -1, -1), k], 2)
        v = torch.cat([before[1].expand(batch, -1, -1, -1), v], 2)
    q = q.view(batch, length, kv, heads // kv, d).permute(0, 2, 3, 1, 4)  # [B, kv, group, T, d]
    q = (q * d ** -0.5).reshape(batch, kv, -1, d)
    scores = (q @ k.mT).view(batch, kv, heads // kv, length, -1) + bias
    o = scores.softmax(-1).view(batch, kv, -1, k.shape[2]) @ v
    o = o.view(batch, kv, heads // kv, length, d).permute(0, 3, 1, 2, 4).reshape(batch, length, heads * d)
    x = x + F.linear(o, w["self_attn.o_proj.weight"])
    h = rms_norm(x, w["post_attention_layernorm.weight"], eps)
    h = F.silu(F.linear(h, w["mlp.gate_proj.weight"])) * F.linear(h, w["mlp.up_proj.weight"])
    return x + F.linear(h, w["mlp.down_proj.weight"]), here


def lm_states(weights, config, ids, is_real, prefix):
    """Final-norm states [B, T, H] of `ids` [B, T] that follow the shared tokens `prefix` [P].

    is_real [B, T] is false on left pads, which nothing sees."""
    table = weights["embed_tokens.weight"]
    dtype, (batch, length), count = table.dtype, ids.shape, len(prefix)
    layers = []
    for i in range(config["num_hidden_layers"]):
        stem = f"layers.{i}."
        layers.append({k[len(stem):]: v for k, v in weights.items() if k.startswith(stem)})
    shape = config["head_dim"], config["rope_theta"], dtype

    def causal(n):
        return torch.full((n, n), -math.inf, dtype=dtype, device=ids.device).triu(1)

    turn = angles(torch.arange(count, device=ids.device)[None], *shape)
    x, known = F.embedding(prefix[None], table), []
    for w in layers:
        x, pair = lm_block(x, w, *turn, causal(count), config)
        known.append(pair)
    place = count + (is_real.long().cumsum(1) - 1).clamp(min=0)
    turn = angles(place, *shape)
    hidden = torch.zeros(batch, 1, length, dtype=dtype, device=ids.device).masked_fill(~is_real[:, None], -math.inf)
    bias = torch.cat([torch.zeros(batch, length, count, dtype=dtype, device=ids.device), causal(length) + hidden], 2)[:, None, None]
    x = F.embedding(ids, table)
    for w, pair in zip(layers, known):
        x, _ = lm_block(x, w, *turn, bias, config, pair)
    return rms_norm(x, weights["norm.weight"], config["rms_norm_eps"])


def connect(w, x):
    h = F.gelu(F.linear(x, w["0.weight"], w["0.bias"]), approximate="tanh")
    return rms_norm(F.linear(h, w["2.weight"], w["2.bias"]), w["3.weight"], 1e-5)


def sana_block(h, w, context, modulation, grid, c, wanted=None):
    """One SANA block. h [B, N, D], context [B / r, M, D] (each for r rows in a run), modulation [B, 6, D].

    With `wanted` [N, p * p], the context rows that lie under each latent token, also returns [B / r, ...] the negative
    log-probability that head i attends to the i-th of them."""
    batch, count, width = h.shape
    dim, heads = c["attention_head_dim"], c["num_attention_heads"]
    shift1, scale1, gate1, shift2, scale2, gate2 = (w["scale_shift_table"] + modulation).unsqueeze(2).unbind(1)
    z = F.layer_norm(h, (width,), eps=c["norm_eps"]) * (1 + scale1) + shift1
    q = F.relu(rms_norm(F.linear(z, w["attn1.to_q.weight"]), w["attn1.norm_q.weight"], 1e-5))
    k = F.relu(rms_norm(F.linear(z, w["attn1.to_k.weight"]), w["attn1.norm_k.weight"], 1e-5))
    v = F.linear(z, w["attn1.to_v.weight"])
    q, k, v = (t.view(batch, count, heads, dim).transpose(1, 2) for t in (q, k, v))
    o = (q @ (k.mT @ v)) / ((q * k.sum(2, keepdim=True)).sum(-1, keepdim=True) + 1e-6)
    o = o.transpose(1, 2).reshape(batch, count, width)
    h = h + gate1 * F.linear(o, w["attn1.to_out.0.weight"], w["attn1.to_out.0.bias"])

    dim, heads = c["cross_attention_head_dim"], c["num_cross_attention_heads"]
    q = rms_norm(F.linear(h, w["attn2.to_q.weight"], w["attn2.to_q.bias"]), w["attn2.norm_q.weight"], 1e-5)
    k = rms_norm(F.linear(context, w["attn2.to_k.weight"], w["attn2.to_k.bias"]), w["attn2.norm_k.weight"], 1e-5)
    v = F.linear(context, w["attn2.to_v.weight"], w["attn2.to_v.bias"])
    q, k, v = (t.reshape(len(context), -1, heads, dim).transpose(1, 2) for t in (q * dim ** -0.5, k, v))
    scores = q @ k.mT
    guide = None
    if wanted is not None:
        guided = scores[:, :wanted.shape[1]].float().log_softmax(-1)  # [B / r, p * p, r * N, M]
        where = wanted.T.repeat(1, batch // len(context))[None, :, :, None].expand(len(context), -1, -1, 1)
        guide = -guided.gather(-1, where)[..., 0].flatten(1).mean(1)
    o = scores.softmax(-1) @ v
    o = o.transpose(1, 2).reshape(batch, count, width)
    h = h + F.linear(o, w["attn2.to_out.0.weight"], w["attn2.to_out.0.bias"])

    z = F.layer_norm(h, (width,), eps=c["norm_eps"]) * (1 + scale2) + shift2
    z = F.silu(F.linear(z, w["ff.conv_inverted.weight"].flatten(1), w["ff.conv_inverted.bias"]))
    z = z.unflatten(1, grid).permute(0, 3, 1, 2)  # a channels-last view
    z = F.conv2d(z, w["ff.conv_depth.weight"], w["ff.conv_depth.bias"], padding=1, groups=z.shape[1])
    value, gate = z.permute(0, 2, 3, 1).flatten(1, 2).chunk(2, -1)
    return h + gate2 * F.linear(value * F.silu(gate), w["ff.conv_point.weight"].flatten(1)), guide


def rows_under(grid, patch):
    """Context rows [N, p * p] of the image tokens under each latent token; the two grids are equal, row 0 is <S0>."""
    cells = 1 + torch.arange(grid[0] * grid[1] * patch * patch).view(grid[0], patch, grid[1], patch)
    return cells.permute(0, 2, 1, 3).reshape(grid[0] * grid[1], patch * patch)


def sana_velocity(weights, c, x, context, t, guided_from=None):
    """Velocity [B, C, h, w] of latent x at times t [B] in 0..1000.

    With `guided_from`, a pair of it and the mean guide of the blocks from that one on (see sana_block)."""
    batch, channels, height, width = x.shape
    p = c["patch_size"]
    grid = height // p, width // p
    dtype = x.dtype
    w = weights

    def linear(name, value):
        return F.linear(value, w[name + ".weight"].flatten(1), w[name + ".bias"])

    x = x.view(batch, channels, grid[0], p, grid[1], p).permute(0, 2, 4, 1, 3, 5)
    h = linear("patch_embed.proj", x.reshape(batch, grid[0] * grid[1], -1))
    angle = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(128, device=x.device) / 128)
    e = torch.cat([angle.cos(), angle.sin()], 1).to(dtype)
    e = linear("time_embed.emb.timestep_embedder.linear_2",
               F.silu(linear("time_embed.emb.timestep_embedder.linear_1", e)))
    modulation = linear("time_embed.linear", F.silu(e)).view(batch, 6, -1)
    context = F.gelu(linear("caption_projection.linear_1", context), approximate="tanh")
    context = rms_norm(linear("caption_projection.linear_2", context), w["caption_norm.weight"], 1e-5)
    guides, wanted = [], rows_under(grid, p).to(x.device)
    for i in range(c["num_layers"]):
        stem = f"transformer_blocks.{i}."
        block = {k[len(stem):]: v for k, v in w.items() if k.startswith(stem)}
        is_guided = guided_from is not None and i >= guided_from
        h, guide = sana_block(h, block, context, modulation, grid, c, wanted if is_guided else None)
        guides += [guide] if is_guided else []
    shift, scale = (w["scale_shift_table"] + e[:, None]).unsqueeze(2).unbind(1)
    h = F.layer_norm(h, (h.shape[-1],), eps=1e-6) * (1 + scale) + shift
    o = linear("proj_out", h).view(batch, *grid, p, p, channels)
    v = o.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, height, width)
    return v if guided_from is None else (v, sum(guides) / len(guides))
