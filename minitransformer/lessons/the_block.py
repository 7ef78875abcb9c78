"""The exercises of lesson 4: the block and the residual stream."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.config import StackConfig
from minitransformer.errors import InputError
from minitransformer.lens.stream import read_out
from minitransformer.lessons.exercise import Cases, Exercise, Wrong, draw
from minitransformer.loading import load
from minitransformer.model.activations import ActivationCache
from minitransformer.modules import AddNorm, FeedForward
from minitransformer.modules.masks import causal_mask
from minitransformer.ops import by_hand
from minitransformer.pretrained import Pretrained

Step = Callable[[Tensor], Tensor]
TEXT = "My good lord, God save your"


def vectors_to_normalise() -> Cases:
    """Vectors with a mean that is not 0; an eps that counts; one vector of equal numbers.

    As many as they are wide, so that a mean without keepdim does not stop.
    """
    flat = draw(6, 6, seed=4) + 2
    flat[1] = 5.0
    return {
        "8 vectors of width 8": (3 * draw(8, 8) + 5, draw(8, seed=1), draw(8, seed=2), 0.5),
        "6 vectors, of which one has equal numbers only": (flat, draw(6, seed=5), draw(6, seed=6), 1e-5),
    }


def feed_forwards() -> Cases:
    """Small ones, with biases."""
    return {
        "4 tokens, D = 6, F = 24": _inner(4, 6, 24),
        "2 tokens, D = 8, F = 12": _inner(2, 8, 12, seed=10),
    }


def _inner(tokens: int, width: int, inner: int, seed: int = 0) -> tuple[Tensor, ...]:
    shapes = ((tokens, width), (width, inner), (inner,), (inner, width), (width,))
    return tuple(draw(*shape, seed=seed + place) for place, shape in enumerate(shapes))


def _feed_forward(x: Tensor, up: Tensor, b_up: Tensor, down: Tensor, b_down: Tensor) -> Tensor:
    """The library's module, with these weights in it."""
    width, inner = up.shape
    module = FeedForward(
        StackConfig(
            layers=1,
            d_model=width,
            heads=1,
            d_ffn=inner,
            norm_order="pre",
            norm_eps=1e-5,
            final_norm=True,
            activation="gelu_tanh",
            causal=True,
        )
    )
    weights = {"up.weight": up.T, "up.bias": b_up, "down.weight": down.T, "down.bias": b_down}
    module.load_state_dict(weights)
    result: Tensor = module(x[None])[0]
    return result


def _with(activation: Step) -> Callable[..., Tensor]:
    return lambda x, up, b_up, down, b_down: activation(x @ up + b_up) @ down + b_down


def sublayers() -> Cases:
    """A norm and a sub-layer, in both orders."""
    x, weight, bias = draw(4, 6) + 1, draw(6, seed=1) + 2, draw(6, seed=2)
    norm = partial(by_hand.layer_norm, weight=weight, bias=bias, eps=1e-5)
    matrix = draw(6, 6, seed=3)
    return {f'order "{order}"': (x, norm, lambda h: h @ matrix, order) for order in ("pre", "post")}


def _add_norm(x: Tensor, norm: Any, f: Step, order: Any) -> Tensor:
    result: Tensor = AddNorm(order)(x, norm, f)
    return result


def _other(order: str) -> str:
    return "post" if order == "pre" else "pre"


@cache
def _shakespeare() -> tuple[Pretrained, Any]:
    """The model, and all that is inside it on `TEXT`."""
    model = load("builtin:shakespeare")
    return model, model.run_with_cache(TEXT)[1]


def real_block() -> Cases:
    """Block 1 of builtin:shakespeare: what goes in, and its parts."""
    model, seen = _shakespeare()
    decoder = model.transformer.decoder
    assert decoder is not None
    block = decoder.blocks[1]
    x = seen["resid_pre", 1]
    self_attn = partial(block.self_attn, mask=causal_mask(x.shape[1], x.shape[1], x.device))
    return {"block 1 of builtin:shakespeare": (x, self_attn, block.self_attn_norm, block.ffn, block.ffn_norm)}


def _pre(x: Tensor, norm: Step, f: Step) -> Tensor:
    return x + f(norm(x))


def _same(x: Tensor) -> Tensor:
    """In a norm's place: none."""
    return x


class _Written(ActivationCache):
    """What was written to the stream, without the stream."""

    def __getitem__(self, key: str | tuple[str | int, ...]) -> Tensor:
        if "resid" in str(key):
            raise InputError(f"{key}: not this; use only hook_full_embed, attn_out and mlp_out")
        return super().__getitem__(key)


@cache
def _written() -> ActivationCache:
    model, seen = _shakespeare()
    names = [name for name in seen if name.endswith(("embed", "attn_out", "mlp_out"))]
    return _Written(model.transformer, {name: seen[name] for name in names})


def streams() -> Cases:
    """What was written to the stream of builtin:shakespeare, and a block: not the last, so that one more exists."""
    return {f"the stream behind block {layer}": (_written(), layer) for layer in (0, 1, 2)}


def _sum(seen: Any, layers: range, *parts: str, start: Any = None) -> Tensor:
    total: Tensor = seen["hook_full_embed"] if start is None else start
    for layer in layers:
        for part in parts:
            total = total + seen[part, layer]
    return total


def stream_and_head() -> Cases:
    """The stream behind two blocks of builtin:shakespeare, its final norm, and its unembedding."""
    model, seen = _shakespeare()
    decoder, unembedding = model.transformer.decoder, model.weights().W_U
    assert decoder is not None
    assert unembedding is not None
    return {
        f"the stream behind {about}": (seen["resid_post", layer], decoder.final_norm, unembedding.detach())
        for about, layer in {"block 1": 1, "the last block": -1}.items()
    }


def _read(stream: Tensor, *_: Any) -> Tensor:
    with torch.no_grad():
        return read_out(_shakespeare()[0].transformer, stream)


def _without_gain(stream: Tensor, norm: nn.Module, unembedding: Tensor) -> Tensor:
    ones = torch.ones(stream.shape[-1])
    return by_hand.layer_norm(stream, ones, 0 * ones, 1e-5) @ unembedding


EXERCISES = (
    Exercise(
        number="4.1",
        asks="layer_norm(x, weight, bias, eps): mean 0 and variance 1, then scale and shift",
        cases=vectors_to_normalise,
        right=by_hand.layer_norm,
        wrong=(
            Wrong(
                "Your variance divides by D - 1, as torch's var() does by default; LayerNorm's divides by D.",
                lambda x, w, b, eps: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + eps).sqrt() * w + b,
            ),
            Wrong(
                "You added eps behind the root; it belongs to the variance, within the root.",
                lambda x, w, b, eps: (
                    (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True).sqrt() + eps) * w + b
                ),
            ),
            Wrong(
                "There is no eps in it: a vector of equal numbers gives 0 / 0.",
                lambda x, w, b, eps: by_hand.layer_norm(x, w, b, 0.0),
            ),
            Wrong(
                "You divided by the variance; divide by its square root.",
                lambda x, w, b, eps: (
                    (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + eps) * w + b
                ),
            ),
            Wrong(
                "You normalised each column over the tokens; each token's own vector is what is normalised.",
                lambda x, w, b, eps: (x - x.mean(0)) / (x.var(0, correction=0) + eps).sqrt() * w + b,
            ),
            Wrong(
                "You took mean and variance of all numbers together; each token has its own.",
                lambda x, w, b, eps: (x - x.mean()) / (x.var(correction=0) + eps).sqrt() * w + b,
            ),
            Wrong(
                "The mean is not subtracted: that is RMSNorm, with a bias.",
                lambda x, w, b, eps: by_hand.rms_norm(x, w, eps) + b,
            ),
            Wrong(
                "You subtract the mean in the variance only; the vector itself must lose it, too.",
                lambda x, w, b, eps: x / (x.var(-1, correction=0, keepdim=True) + eps).sqrt() * w + b,
            ),
            Wrong(
                "You have an eps of your own, 1e-5; use the one you are given.",
                lambda x, w, b, eps: by_hand.layer_norm(x, w, b, 1e-5),
            ),
            Wrong(
                "Two slips: std() divides by D - 1, and eps belongs to the variance, within the root.",
                lambda x, w, b, eps: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + eps) * w + b,
            ),
            Wrong(
                "You took each token's mean from a column: keepdim=True keeps the means beside their tokens.",
                lambda x, w, b, eps: (x - x.mean(-1)) / (x.var(-1, correction=0) + eps).sqrt() * w + b,
            ),
            Wrong(
                "The weight is left out.",
                lambda x, w, b, eps: by_hand.layer_norm(x, torch.ones_like(w), b, eps),
            ),
            Wrong(
                "You shifted before you scaled: the bias is added last.",
                lambda x, w, b, eps: by_hand.layer_norm(x, w, b * w, eps),
            ),
            Wrong(
                "Weight and bias are left out.",
                lambda x, w, b, eps: by_hand.layer_norm(x, torch.ones_like(w), torch.zeros_like(b), eps),
            ),
            Wrong(
                "The bias is left out.",
                lambda x, w, b, eps: by_hand.layer_norm(x, w, torch.zeros_like(b), eps),
            ),
            Wrong(
                "You scaled and shifted first; that comes after the division.",
                lambda x, w, b, eps: by_hand.layer_norm(x * w + b, torch.ones_like(w), torch.zeros_like(b), eps),
            ),
        ),
        hints=(
            "Each token's vector has its own mean: x.mean(-1, keepdim=True).",
            "The variance is the mean of the squares of what is left, centred = x - mean. It is used under the root.",
            "centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt(), times weight, plus bias.",
        ),
        stands="ops/by_hand.py, layer_norm",
    ),
    Exercise(
        number="4.2",
        asks="feed_forward(x, W_up, b_up, W_down, b_down): up, activation, down",
        cases=feed_forwards,
        right=_feed_forward,
        wrong=(
            Wrong(
                "There is no activation in it: two matrix products in a row are one matrix product.",
                _with(lambda h: h),
            ),
            Wrong(
                "The activation stands behind the way down; it belongs to the inner vector.",
                lambda x, up, b_up, down, b_down: by_hand.gelu_tanh((x @ up + b_up) @ down + b_down),
            ),
            Wrong(
                "The activation stands before the way up; it belongs to the inner vector.",
                lambda x, up, b_up, down, b_down: (by_hand.gelu_tanh(x) @ up + b_up) @ down + b_down,
            ),
            Wrong(
                "b_up comes after the activation; it is added before.",
                lambda x, up, b_up, down, b_down: (by_hand.gelu_tanh(x @ up) + b_up) @ down + b_down,
            ),
            Wrong(
                "Both biases are left out.",
                lambda x, up, b_up, down, b_down: by_hand.gelu_tanh(x @ up) @ down,
            ),
            Wrong(
                "b_up is left out.",
                lambda x, up, b_up, down, b_down: by_hand.gelu_tanh(x @ up) @ down + b_down,
            ),
            Wrong(
                "b_down is left out.",
                lambda x, up, b_up, down, b_down: by_hand.gelu_tanh(x @ up + b_up) @ down,
            ),
            Wrong(
                "Your activation is the exact gelu; this model was trained with the approximation, gelu_tanh.",
                _with(by_hand.gelu),
            ),
            Wrong(
                "Your activation is relu; this model's is gelu_tanh.",
                _with(by_hand.relu),
            ),
            Wrong("Your activation is tanh alone; that is only a part of gelu_tanh.", _with(torch.tanh)),
            Wrong(
                "You added x to the result. The wiring does that (exercise 4.3); here it is the sub-layer alone.",
                lambda x, *weights: x + _with(by_hand.gelu_tanh)(x, *weights),
            ),
        ),
        hints=(
            "Three steps: to the inner width, the activation, and back to the model's width.",
            "The inner vector is by_hand.gelu_tanh(x @ W_up + b_up).",
            "by_hand.gelu_tanh(x @ W_up + b_up) @ W_down + b_down.",
        ),
        stands="modules/feedforward.py, FeedForward",
    ),
    Exercise(
        number="4.3",
        asks='add_norm(x, norm, f, order): "pre" or "post"',
        cases=sublayers,
        right=_add_norm,
        wrong=(
            Wrong("The two are exchanged.", lambda x, norm, f, order: _add_norm(x, norm, f, _other(order))),
            Wrong('That is "pre" in both cases.', lambda x, norm, f, order: _add_norm(x, norm, f, "pre")),
            Wrong('That is "post" in both cases.', lambda x, norm, f, order: _add_norm(x, norm, f, "post")),
            Wrong(
                "The residual connection is missing: x itself must be added.",
                lambda x, norm, f, order: f(norm(x)) if order == "pre" else norm(f(x)),
            ),
            Wrong(
                'The residual connection is missing in "pre"; x must be added there, too.',
                lambda x, norm, f, order: f(norm(x)) if order == "pre" else norm(x + f(x)),
            ),
            Wrong(
                'The residual connection is missing in "post"; x must be added there, too.',
                lambda x, norm, f, order: x + f(norm(x)) if order == "pre" else norm(f(x)),
            ),
            Wrong(
                'With "pre" you normalised what comes out of the sub-layer; it is what goes in.',
                lambda x, norm, f, order: x + norm(f(x)) if order == "pre" else norm(x + f(x)),
            ),
            Wrong(
                "You normalised both before the sub-layer and behind the sum; order says which of the two.",
                lambda x, norm, f, order: norm(x + f(norm(x))),
            ),
            Wrong(
                'With "pre" you added the normalised x; it is x itself that goes on.',
                lambda x, norm, f, order: norm(x) + f(norm(x)) if order == "pre" else norm(x + f(x)),
            ),
            Wrong(
                "You normalised before and behind the sub-layer; each order has one norm.",
                lambda x, norm, f, order: x + norm(f(norm(x))) if order == "pre" else norm(x + f(norm(x))),
            ),
            Wrong(
                'With "post" you normalised the sub-layer\'s output only; the sum is what is normalised.',
                lambda x, norm, f, order: x + f(norm(x)) if order == "pre" else x + norm(f(x)),
            ),
        ),
        hints=(
            "In both, x is added to what f gives. They differ in what the norm is applied to.",
            "pre: the norm stands before f, and only f sees it. post: the norm is the last step of all.",
            'x + f(norm(x)) if order == "pre" else norm(x + f(x)).',
        ),
        stands="modules/norm.py, AddNorm",
    ),
    Exercise(
        number="4.4",
        asks="block(x, self_attn, norm_1, ffn, norm_2): a block of GPT-2's kind",
        cases=real_block,
        right=lambda *_: _shakespeare()[1]["resid_post", 1],
        wrong=(
            Wrong(
                "You wired it as post-norm; this model's norms stand before the sub-layers.",
                lambda x, attn, one, ffn, two: two(one(x + attn(x)) + ffn(one(x + attn(x)))),
            ),
            Wrong(
                "Both sub-layers read the block's input; the second reads what the first has left in the stream.",
                lambda x, attn, one, ffn, two: x + attn(one(x)) + ffn(two(x)),
            ),
            Wrong(
                "The feed-forward's output is added to the block's input: the attention's is lost.",
                lambda x, attn, one, ffn, two: x + ffn(two(_pre(x, one, attn))),
            ),
            Wrong(
                "The second residual connection is missing.",
                lambda x, attn, one, ffn, two: ffn(two(_pre(x, one, attn))),
            ),
            Wrong(
                "The first residual connection is missing.",
                lambda x, attn, one, ffn, two: _pre(attn(one(x)), two, ffn),
            ),
            Wrong(
                "Both residual connections are missing: what comes in must be added to what each sub-layer gives.",
                lambda x, attn, one, ffn, two: ffn(two(attn(one(x)))),
            ),
            Wrong(
                "There are no norms in it.",
                lambda x, attn, one, ffn, two: _pre(_pre(x, _same, attn), _same, ffn),
            ),
            Wrong(
                "The attention reads the stream without a norm.",
                lambda x, attn, one, ffn, two: _pre(_pre(x, _same, attn), two, ffn),
            ),
            Wrong(
                "The feed-forward's norm is behind the sum; in this model both norms stand before their sub-layers.",
                lambda x, attn, one, ffn, two: two(_pre(_pre(x, one, attn), _same, ffn)),
            ),
            Wrong(
                "The feed-forward reads the stream without a norm.",
                lambda x, attn, one, ffn, two: _pre(_pre(x, one, attn), _same, ffn),
            ),
            Wrong(
                "You used the first norm twice; the feed-forward has its own.",
                lambda x, attn, one, ffn, two: _pre(_pre(x, one, attn), one, ffn),
            ),
            Wrong(
                "The two norms are exchanged.",
                lambda x, attn, one, ffn, two: _pre(_pre(x, two, attn), one, ffn),
            ),
            Wrong(
                "The feed-forward comes first; attention does.",
                lambda x, attn, one, ffn, two: _pre(_pre(x, two, ffn), one, attn),
            ),
            Wrong(
                "The feed-forward comes first, with the attention's norm; the attention comes first.",
                lambda x, attn, one, ffn, two: _pre(_pre(x, one, ffn), two, attn),
            ),
            Wrong(
                "That is half the block: the attention is missing.",
                lambda x, attn, one, ffn, two: _pre(x, two, ffn),
            ),
            Wrong("That is half the block: the feed-forward is missing.", lambda x, attn, one, *_: _pre(x, one, attn)),
        ),
        hints=(
            'Twice the "pre" of exercise 4.3: with attention and its norm, then with the feed-forward and its own.',
            "The second step starts from what the first one gives.",
            'x = add_norm(x, norm_1, self_attn, "pre"), and then the same with norm_2 and ffn.',
        ),
        stands="model/stack.py, Block.forward",
        tolerance=1e-4,  # numbers up to 20, of a float32 model
    ),
    Exercise(
        number="4.5",
        asks="stream_behind(cache, layer): the stream as the sum of what was written to it",
        cases=streams,
        right=lambda _, layer: _shakespeare()[1]["resid_post", layer],
        wrong=(
            Wrong(
                "You stopped one block too early: the block of that number writes, too.",
                lambda seen, layer: _sum(seen, range(layer), "attn_out", "mlp_out"),
            ),
            Wrong(
                "That is the last stream, with all blocks in it; stop behind the one that is asked for.",
                lambda seen, layer: _sum(seen, range(4), "attn_out", "mlp_out"),
            ),
            Wrong(
                "The embeddings are missing; the stream begins with them.",
                lambda seen, layer: _sum(seen, range(layer + 1), "attn_out", "mlp_out", start=torch.zeros(())),
            ),
            Wrong(
                "The feed-forwards' outputs are missing.",
                lambda seen, layer: _sum(seen, range(layer + 1), "attn_out"),
            ),
            Wrong(
                "The attentions' outputs are missing.",
                lambda seen, layer: _sum(seen, range(layer + 1), "mlp_out"),
            ),
            Wrong(
                "You began with the tokens' vectors alone; their places are in the stream, too: hook_full_embed.",
                lambda seen, layer: _sum(
                    seen, range(layer + 1), "attn_out", "mlp_out", start=seen["hook_embed"].clone()
                ),
            ),
            Wrong(
                "Block 0 is missing; blocks count from 0.",
                lambda seen, layer: _sum(seen, range(1, layer + 1), "attn_out", "mlp_out"),
            ),
            Wrong(
                "That is one block too many; range(n) ends with n - 1.",
                lambda seen, layer: _sum(seen, range(layer + 2), "attn_out", "mlp_out"),
            ),
            Wrong(
                "You added the embeddings once for each block; they are written once, at the beginning.",
                lambda seen, layer: _sum(
                    seen, range(layer + 1), "attn_out", "mlp_out", start=(layer + 1) * seen["hook_full_embed"]
                ),
            ),
            Wrong(
                "Only the last block has written to your sum; the earlier ones did, too.",
                lambda seen, layer: _sum(seen, range(layer, layer + 1), "attn_out", "mlp_out"),
            ),
        ),
        hints=(
            'Begin with cache["hook_full_embed"], and add what each block wrote.',
            'Each block wrote two things: cache["attn_out", i] and cache["mlp_out", i].',
            "i runs from 0 to layer, layer included: range(layer + 1).",
        ),
        stands="lens/stream.py, written",
        tolerance=1e-4,  # numbers up to 30, added in any order
    ),
    Exercise(
        number="4.6",
        asks="lens_logits(stream, final_norm, W_U): the logits that the head makes of a stream",
        cases=stream_and_head,
        right=_read,
        wrong=(
            Wrong("The final norm is missing.", lambda stream, norm, unembedding: stream @ unembedding),
            Wrong(
                "You normalised twice; the stream has not been normalised yet, and once is enough.",
                lambda stream, norm, unembedding: norm(norm(stream)) @ unembedding,
            ),
            Wrong(
                "You normalised without the norm's learned weight and bias; call final_norm itself.",
                _without_gain,
            ),
            Wrong(
                "These are probabilities; logits are asked, before softmax.",
                lambda stream, norm, unembedding: (norm(stream) @ unembedding).softmax(-1),
            ),
            Wrong(
                "These are logarithms of probabilities; logits are asked.",
                lambda stream, norm, unembedding: (norm(stream) @ unembedding).log_softmax(-1),
            ),
            Wrong(
                "You read the last position only; the lens reads all.",
                lambda stream, norm, unembedding: norm(stream)[:, -1] @ unembedding,
            ),
            Wrong(
                "That is the normalised stream; it has still to be multiplied with W_U.",
                lambda stream, norm, unembedding: norm(stream),
            ),
        ),
        hints=(
            "The very steps behind the last block: the final norm, then one matrix product.",
            "final_norm is a function: final_norm(stream) is [1 T D]. W_U is [D V].",
            "final_norm(stream) @ W_U.",
        ),
        stands="lens/stream.py, read_out",
        tolerance=1e-4,  # logits up to 11
    ),
)
