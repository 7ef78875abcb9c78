"""A Transformer in plain formulas over a state dict, each number on its way named: what `capture` is held against."""

import math

import torch
from transformers.models.t5.modeling_t5 import T5Attention


def linear(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def norm(weights, name, x, eps, points=None, called=""):
    """Layer norm; RMS norm where there is no bias. Names its parts in `points`."""
    is_rms = f"{name}.bias" not in weights
    scale = torch.sqrt(((x**2).mean(-1, keepdim=True) if is_rms else x.var(-1, keepdim=True, correction=0)) + eps)
    normalized = (x if is_rms else x - x.mean(-1, keepdim=True)) / scale
    if points is not None:
        points |= {f"{called}.hook_scale": scale, f"{called}.hook_normalized": normalized}
    return normalized * weights[f"{name}.weight"] + weights.get(f"{name}.bias", 0)


def activate(x, name):
    if name == "gelu_tanh":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    plain = {"relu": torch.relu, "silu": lambda x: x / (1 + torch.exp(-x)), "gelu": lambda x: x * torch.special.ndtr(x)}
    return plain[name](x)


def turn(x, theta):
    """Rotary positions 0, 1, …: the complex number xⱼ + i xⱼ₊ₑ/₂ times e^(i p θ^(-2j/E)). x [B T H E]."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * (1 / theta ** (torch.arange(half) / half))  # float32, as the model's
    unit = torch.complex(angles.cos().double(), angles.sin().double())[:, None]  # [T 1 E/2]
    turned = torch.complex(x[..., :half], x[..., half:]) * unit
    return torch.cat([turned.real, turned.imag], dim=-1)


def attend(config, weights, name, x, y, allowed, points, bias=0.0):
    """x [B T D] attends to y [B S D] where `allowed` [B T S] says so. Names all its parts."""
    parts = (("q", x), ("k", y), ("v", y))
    q, k, v = (linear(weights, f"{name}.{m}", s).unflatten(-1, (-1, config.d_head)) for m, s in parts)
    points |= {"q": q, "k": k, "v": v}
    if config.qk_norm:
        q, k = norm(weights, f"{name}.q_norm", q, config.norm_eps), norm(weights, f"{name}.k_norm", k, config.norm_eps)
    if config.rotary_theta and x is y:
        q, k = turn(q, config.rotary_theta), turn(k, config.rotary_theta)
        points |= {"rot_q": q, "rot_k": k}
    reads = [h * k.shape[2] // config.heads for h in range(config.heads)]  # which head of keys each query head reads
    scale = config.score_scale or 1 / math.sqrt(q.shape[-1])
    scores = torch.einsum("bthe,bshe->bhts", q, k[:, :, reads]) * scale + bias
    scores = torch.where(allowed[:, None], scores, -math.inf)
    pattern = torch.nan_to_num(torch.softmax(scores, -1), nan=0.0)
    z = torch.einsum("bhts,bshe->bthe", pattern, v[:, :, reads])
    of_heads = weights[f"{name}.o.weight"].T.unflatten(0, (config.heads, config.d_head))  # [H E D]
    result = torch.stack([z[:, :, h] @ of_heads[h] for h in range(config.heads)], dim=2)
    points |= {"attn_scores": scores, "pattern": pattern, "z": z, "result": result}
    return linear(weights, f"{name}.o", z.flatten(-2))


def relative_bias(config, table, length):
    """[H T T]: a number for each head and distance, by buckets that transformers computes."""
    distances = torch.arange(length) - torch.arange(length)[:, None]
    relative = config.relative_positions
    bucket_of = T5Attention._relative_position_bucket
    return table[bucket_of(distances, not config.causal, relative.buckets, relative.max_distance)].permute(2, 0, 1)


def run_block(config, weights, name, x, allowed, memory, memory_allowed, bias):
    """One block. Returns its output and its points."""
    points, attn, cross = {"hook_resid_pre": x}, {}, {}
    pre = config.norm_order == "pre"

    called = {"self_attn_norm": "ln1", "cross_attn_norm": "ln2", "ffn_norm": "ln3" if config.cross_attention else "ln2"}

    def normed(part, x, here):
        return norm(weights, f"{name}.{part}", x, config.norm_eps, points, called[part]) if here else x

    h = normed("self_attn_norm", x, pre)
    points["hook_attn_out"] = attend(config, weights, f"{name}.self_attn", h, h, allowed, attn, bias)
    points["hook_resid_mid"] = x + points["hook_attn_out"]
    x = normed("self_attn_norm", points["hook_resid_mid"], not pre)
    if config.cross_attention:
        h = normed("cross_attn_norm", x, pre)
        out = attend(config, weights, f"{name}.cross_attn", h, memory, memory_allowed, cross)
        points |= {"hook_cross_attn_out": out, "hook_resid_mid_cross": x + out}
        x = normed("cross_attn_norm", x + out, not pre)
    h = normed("ffn_norm", x, pre)
    points["mlp.hook_pre"] = linear(weights, f"{name}.ffn.gate" if config.gated else f"{name}.ffn.up", h)
    points["mlp.hook_post"] = activate(points["mlp.hook_pre"], config.activation)
    if config.gated:
        points["mlp.hook_pre_linear"] = linear(weights, f"{name}.ffn.up", h)
        points["mlp.hook_post"] = points["mlp.hook_post"] * points["mlp.hook_pre_linear"]
    points["hook_mlp_out"] = linear(weights, f"{name}.ffn.down", points["mlp.hook_post"])
    points["hook_resid_post"] = x + points["hook_mlp_out"]
    x = normed("ffn_norm", points["hook_resid_post"], not pre)
    if not pre:
        points["hook_normalized_resid_post"] = x
    points |= {f"attn.hook_{part}": value for part, value in attn.items()}
    points |= {f"cross_attn.hook_{part}": value for part, value in cross.items()}
    return x, points


def run_stack(config, weights, name, prefix, x, attention_mask, memory=None, memory_mask=None):
    """All blocks and the last norm. x [B T D], masks [B T] and [B S] -> (x, {point: value})."""
    batch, queries, _ = x.shape
    allowed = (attention_mask[:, None, :] == 1).expand(batch, queries, queries)
    if config.causal:
        back = torch.arange(queries)[:, None] - torch.arange(queries)
        allowed = allowed & (back >= 0) & (back < (config.window or queries))
    table = weights.get(f"{name}.relative_bias.weight")
    bias = 0.0 if table is None else relative_bias(config, table, queries)
    memory_allowed = None if memory is None else (memory_mask[:, None, :] == 1).expand(batch, queries, -1)
    of_stack = "" if prefix == "blocks" else f"{prefix}."
    seen = {f"{of_stack}hook_full_embed": x}
    for i, layer in enumerate(config.order):
        x, points = run_block(config, weights, f"{name}.layers.{layer}", x, allowed, memory, memory_allowed, bias)
        seen |= {f"{prefix}.{i}.{point}": value for point, value in points.items()}
    if config.final_norm:
        x = norm(weights, f"{name}.final_norm", x, config.norm_eps, seen, f"{of_stack}ln_final")
    return x, seen


def unembed(config, weights, name, x, table):
    """A language model's logits, named. x [B T D], table [V D']."""
    if config.transform:
        x = norm(
            weights, f"{name}.norm", activate(linear(weights, f"{name}.dense", x), config.transform), config.norm_eps
        )
    table = weights.get(f"{name}.weight", table)
    logits = x @ table.T * config.scale + weights.get(f"{name}.bias", 0)
    return logits, {"unembed.hook_in": x, "unembed.hook_out": logits}


def embed(config, weights, ids, token_type_ids=None, name="embed", prefix=""):
    """Token (· scale), type and position of each id, their norm and projection. -> (x [B T D], {point: value})."""
    tokens = weights[f"{name}.tokens.weight"]
    points = {f"{prefix}hook_embed": tokens[ids]}
    x = tokens[ids] * config.scale
    if config.positions is not None:
        places = position_vectors(config, weights, ids, name)
        points[f"{prefix}hook_pos_embed"] = places
        x = x + places
    if config.token_types == "learned":
        types = torch.zeros_like(ids) if token_type_ids is None else token_type_ids
        points[f"{prefix}hook_token_type_embed"] = weights[f"{name}.types.weight"][types]
        x = x + points[f"{prefix}hook_token_type_embed"]
    elif token_type_ids is not None:
        x = x + tokens[token_type_ids]
    if config.norm_eps is not None:
        x = norm(weights, f"{name}.norm", x, config.norm_eps)
    return (linear(weights, f"{name}.proj", x) if config.d_embed else x), points


def position_vectors(config, weights, ids, name):
    """[1 T D]"""
    if config.positions == "learned":
        return weights[f"{name}.positions.weight"][None, config.position_offset :][:, : ids.shape[1]]
    columns = torch.arange(config.d_model)
    angles = torch.arange(ids.shape[1])[:, None] / 10000.0 ** ((columns // 2 * 2).double() / config.d_model)
    places = torch.where(columns % 2 == 0, angles.sin(), angles.cos())[None]
    if config.positions == "sinusoidal_halves":
        places = torch.cat([places[..., 0::2], places[..., 1::2]], dim=-1)
    return places


def embed_patches(config, weights, images):
    """Patches row by row, each flattened and projected, behind the special tokens. -> (x [B T D], {point: value})."""
    height, width = config.patch_size
    matrix = weights["embed.patches.weight"].flatten(1)  # [D C·h·w]
    tiles = [
        images[:, :, i * height : (i + 1) * height, j * width : (j + 1) * width].flatten(1)
        for i in range(config.image_size[0] // height)
        for j in range(config.image_size[1] // width)
    ]
    patches = torch.stack([tile @ matrix.T + weights["embed.patches.bias"] for tile in tiles], dim=1)
    special = [weights[f"embed.{name}"] for name in ("class_token", "distillation_token") if f"embed.{name}" in weights]
    before = torch.stack(special).expand(len(images), -1, -1)
    places = weights["embed.positions.weight"][None]
    points = {"hook_patch_embed": patches, "hook_pos_embed": places}
    return torch.cat([before, patches], dim=1) + places, points
