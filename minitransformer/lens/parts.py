"""The parts of a model in the order of its computation: what each gives, and which modules it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from minitransformer.config import PatchEmbeddingConfig, StackConfig, TokenEmbeddingConfig
from minitransformer.model import Output, Transformer
from minitransformer.model.stack import Stack
from minitransformer.model.transformer import LOGITS

Letters = Mapping[str, int]


@dataclass(frozen=True)
class Step:
    """One part. `modules`: their names in the model, `*` for the number of a layer."""

    name: str
    formula: str
    symbols: str  # the shape of what it gives: "[B H T E]"
    sizes: tuple[int, ...]
    modules: tuple[str, ...] = ()
    times: int = 1
    inside: str = ""  # an attention, of whose two products without parameters, q kᵀ and weights · v, it is one


def steps(model: Transformer, output: Output) -> Iterator[Step]:
    """Every part, in order. `output`: what the model gave for inputs of the size in question."""
    letters = letters_of(model, output)
    config = model.config
    two = model.encoder is not None and model.decoder is not None
    first = "S" if two else "T"
    if isinstance(config.embed, PatchEmbeddingConfig):
        yield from _patches(config.embed, letters)
    else:
        yield from _embedding("embed", config.embed, letters, first)
    if model.encoder is not None:
        yield from _stack("encoder" if two else "blocks", "encoder", model.encoder, letters, first, first)
    if two:
        table = config.target_embed or config.embed
        if isinstance(table, TokenEmbeddingConfig):
            yield from _embedding("target_embed" if config.target_embed else "embed", table, letters, "T", " (decoder)")
    if model.decoder is not None:
        yield from _stack("decoder" if two else "blocks", "decoder", model.decoder, letters, "T", "S")
    if model.pooler is not None:
        yield _step("pooler", "tanh(h₀ W + b), of the first token", "B D", letters, "pooler")
    yield from _head(model, output, letters)


def letters_of(model: Transformer, output: Output) -> dict[str, int]:
    """B, T, S behind an encoder, and the sizes of the last stack."""
    config = model.config
    found: dict[str, int] = {}
    if output.last_hidden_state is not None:
        found |= {"B": output.last_hidden_state.shape[0], "T": output.last_hidden_state.shape[1]}
    if output.encoder_last_hidden_state is not None:
        found["S"] = output.encoder_last_hidden_state.shape[1]
    table = config.target_embed or config.embed
    found |= {"V": table.vocab_size} if isinstance(table, TokenEmbeddingConfig) else {}
    last = config.decoder or config.encoder
    return found | ({} if last is None else _of_stack(last))


def _of_stack(config: StackConfig) -> dict[str, int]:
    heads = {"H": config.heads} | ({"G": config.kv_heads} if config.kv_heads else {})
    return {"D": config.d_model, **heads, "E": config.d_head, "F": config.d_ffn}


def _step(
    name: str, formula: str, symbols: str, letters: Letters, *modules: str, times: int = 1, inside: str = ""
) -> Step:
    sizes = tuple(letters[letter] for letter in symbols.split())
    return Step(name, formula, f"[{symbols}]", sizes, modules, times, inside)


def _embedding(path: str, config: TokenEmbeddingConfig, letters: Letters, text: str, more: str = "") -> Iterator[Step]:
    width = "D" if config.d_embed is None else "W"  # ALBERT's and ELECTRA's tables are narrower than the model
    own = {**letters, "W": config.d_table}
    scaled = "" if config.scale == 1 else " · scale"
    given = f"B {text} {width}"
    yield _step(f"{path}.tokens{more}", f"table[id]{scaled}", given, own, f"{path}.tokens")
    if config.token_types == "learned":
        yield _step(f"{path}.types{more}", "table[segment]", given, own, f"{path}.types")
    if config.positions is not None:
        yield _step(f"{path}.positions{more}", "table[place]", f"{text} {width}", own, f"{path}.positions")
    if config.norm_eps is not None:
        yield _step(f"{path}.norm{more}", "norm(sum)", given, own, f"{path}.norm")
    if config.d_embed is not None:
        yield _step(f"{path}.proj{more}", "x W + b", f"B {text} D", own, f"{path}.proj")


def _patches(config: PatchEmbeddingConfig, letters: Letters) -> Iterator[Step]:
    own = {**letters, "N": config.length - config.special_tokens}
    yield _step("embed.patches", "patch W + b", "B N D", own, "embed.patches")
    others = ("embed.class_token", "embed.distillation_token", "embed.positions")
    yield _step("embed.positions", "special tokens, patches + table[place]", "B T D", own, *others)


def _stack(name: str, path: str, stack: Stack, letters: Letters, text: str, memory: str) -> Iterator[Step]:
    """The parts of a block, each as often as there are blocks, and the last norm. text, memory: letters of lengths."""
    config = stack.config
    own, times = {**letters, **_of_stack(config)}, len(config.order)
    layers = f"{path}.layers.*"
    if stack.relative_bias is not None:
        shown = f"H {text} {text}"
        yield _step(f"{name}.relative_bias", "table[bucket of distance]", shown, own, f"{path}.relative_bias")

    def normed(part: str, inner: Iterator[Step]) -> Iterator[Step]:
        norm = _step(
            f"{name}.{part}_norm",
            "norm(x)" if config.norm_order == "pre" else f"norm(x + {part}(x))",
            f"B {text} D",
            own,
            f"{layers}.{part}_norm",
            times=times,
        )
        yield from (norm, *inner) if config.norm_order == "pre" else (*inner, norm)

    yield from normed("self_attn", _attention(f"{name}.self_attn", f"{layers}.self_attn", config, own, text, text))
    if config.cross_attention and "S" in letters:
        crossed = _attention(f"{name}.cross_attn", f"{layers}.cross_attn", config, own, text, memory)
        yield from normed("cross_attn", crossed)
    yield from normed("ffn", _feed_forward(f"{name}.ffn", f"{layers}.ffn", config, own, text))
    if stack.final_norm is not None:
        yield _step(f"{name}.final_norm", "norm(x)", f"B {text} D", own, f"{path}.final_norm")


def _attention(name: str, path: str, config: StackConfig, own: Letters, text: str, keys: str) -> Iterator[Step]:
    times, bias = len(config.order), " + b" if "qkv" in config.biases else ""
    group = "G" if config.kv_heads else "H"
    source = "y" if name.endswith("cross_attn") else "x"  # y: the encoder's output
    query, key = f"B H {text} E", f"B {group} {keys} E"
    wrap = f"norm({{}}{bias})" if config.qk_norm else f"{{}}{bias}"
    wrap = f"rotary({wrap})" if config.rotary_theta is not None else wrap
    yield _step(f"{name}.q", wrap.format("x W_Q"), query, own, f"{path}.q", f"{path}.q_norm", times=times)
    yield _step(f"{name}.k", wrap.format(f"{source} W_K"), key, own, f"{path}.k", f"{path}.k_norm", times=times)
    yield _step(f"{name}.v", f"{source} W_V{bias}", key, own, f"{path}.v", times=times)
    square = f"B H {text} {keys}"
    scores = "q kᵀ · scale" + (" + bias" if config.relative_positions is not None and source == "x" else "")
    yield _step(f"{name}.scores", scores, square, own, times=times, inside=path)
    yield _step(f"{name}.pattern", "softmax(scores)", square, own, times=times)
    yield _step(f"{name}.z", "pattern v", query, own, times=times, inside=path)
    ending = " + b" if "o" in config.biases else ""
    yield _step(f"{name}.o", f"z W_O{ending}", f"B {text} D", own, f"{path}.o", times=times)


def _feed_forward(name: str, path: str, config: StackConfig, own: Letters, text: str) -> Iterator[Step]:
    times, bias = len(config.order), " + b" if "ffn" in config.biases else ""
    inner = f"B {text} F"
    if config.gated:
        yield _step(f"{name}.gate", f"x W_gate{bias}", inner, own, f"{path}.gate", times=times)
    yield _step(f"{name}.up", f"x W_up{bias}", inner, own, f"{path}.up", times=times)
    formula = f"{config.activation}(gate) · up" if config.gated else f"{config.activation}(up)"
    yield _step(f"{name}.activation", formula, inner, own, times=times)
    yield _step(f"{name}.down", f"a W_down{bias}", f"B {text} D", own, f"{path}.down", times=times)


def _head(model: Transformer, output: Output, letters: Letters) -> Iterator[Step]:
    """A row for each kind of logits; the head's parameters and products are the first one's."""
    modules: tuple[str, ...] = ("head",)
    for name in LOGITS:
        logits = getattr(output, name)
        if logits is not None:
            symbols = _symbols(tuple(logits.shape), letters)
            yield Step(f"head.{name}", model.config.task, symbols, tuple(logits.shape), modules)
            modules = ()


def _symbols(shape: tuple[int, ...], letters: Letters) -> str:
    """[B T V], [B T], [B labels], …: which letters a shape of logits is written with."""
    last = "V" if shape[-1] == letters.get("V") else "labels"
    if len(shape) == 2:
        return "[B T]" if shape[1] == letters["T"] else f"[B {last}]"
    return f"[B T {last}]" if len(shape) == 3 else f"[B choices T {last}]"
