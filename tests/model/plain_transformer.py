"""A Transformer in plain formulas over a state dict, each number on its way named: what `capture` is held against."""

import math

import torch


def linear(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights, name, x, eps):
    x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, correction=0) + eps)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x, name):
    if name == "gelu_tanh":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return torch.relu(x) if name == "relu" else x * torch.special.ndtr(x)


def attend(weights, name, x, y, allowed, heads, points):
    """x [B T D] attends to y [B S D] where `allowed` [B T S] says so. Names all its parts."""
    q, k, v = (linear(weights, f"{name}.{m}", s).unflatten(-1, (heads, -1)) for m, s in (("q", x), ("k", y), ("v", y)))
    scores = torch.einsum("bthe,bshe->bhts", q, k) / math.sqrt(q.shape[-1])
    scores = torch.where(allowed[:, None], scores, -math.inf)
    pattern = torch.nan_to_num(torch.softmax(scores, -1), nan=0.0)
    z = torch.einsum("bhts,bshe->bthe", pattern, v)
    points |= {"q": q, "k": k, "v": v, "attn_scores": scores, "pattern": pattern, "z": z}
    return linear(weights, f"{name}.o", z.flatten(-2))


def run_block(config, weights, name, x, allowed, memory, memory_allowed):
    """One block. Returns its output and its points."""
    points, attn, cross = {"hook_resid_pre": x}, {}, {}
    pre = config.norm_order == "pre"

    def normed(part, x, here):
        return norm(weights, f"{name}.{part}", x, config.norm_eps) if here else x

    h = normed("self_attn_norm", x, pre)
    points["hook_attn_out"] = attend(weights, f"{name}.self_attn", h, h, allowed, config.heads, attn)
    points["hook_resid_mid"] = x + points["hook_attn_out"]
    x = normed("self_attn_norm", points["hook_resid_mid"], not pre)
    if config.cross_attention:
        h = normed("cross_attn_norm", x, pre)
        out = attend(weights, f"{name}.cross_attn", h, memory, memory_allowed, config.heads, cross)
        points |= {"hook_cross_attn_out": out, "hook_resid_mid_cross": x + out}
        x = normed("cross_attn_norm", x + out, not pre)
    points["mlp.hook_pre"] = linear(weights, f"{name}.ffn.up", normed("ffn_norm", x, pre))
    points["mlp.hook_post"] = gelu(points["mlp.hook_pre"], config.activation)
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
        allowed = allowed & (torch.arange(queries)[:, None] >= torch.arange(queries))
    memory_allowed = None if memory is None else (memory_mask[:, None, :] == 1).expand(batch, queries, -1)
    seen = {}
    for i in range(config.layers):
        x, points = run_block(config, weights, f"{name}.layers.{i}", x, allowed, memory, memory_allowed)
        seen |= {f"{prefix}.{i}.{point}": value for point, value in points.items()}
    return (norm(weights, f"{name}.final_norm", x, config.norm_eps) if config.final_norm else x), seen


def embed(config, weights, ids, token_type_ids=None):
    """Token (· scale), type and position of each id, and their norm. -> (x [B T D], {point: value})."""
    tokens = weights["embed.tokens.weight"]
    if config.positions == "sinusoidal":
        columns = torch.arange(config.d_model)
        angles = torch.arange(ids.shape[1])[:, None] / 10000.0 ** ((columns // 2 * 2).double() / config.d_model)
        places = torch.where(columns % 2 == 0, angles.sin(), angles.cos())[None]
    else:
        places = weights["embed.positions.weight"][None, : ids.shape[1]]
    points = {"hook_embed": tokens[ids], "hook_pos_embed": places}
    x = tokens[ids] * config.scale + places
    if config.token_types == "learned":
        points["hook_token_type_embed"] = weights["embed.types.weight"][token_type_ids]
        x = x + points["hook_token_type_embed"]
    elif token_type_ids is not None:
        x = x + tokens[token_type_ids]
    if config.norm_eps is not None:
        x = norm(weights, "embed.norm", x, config.norm_eps)
    return x, points | {"hook_full_embed": x}
