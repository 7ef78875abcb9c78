"""What a model saw while it wrote: each token's probability, and where each attended, from one more pass."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minitransformer.generation.decoder import positions
from minitransformer.generation.processors import process, processors
from minitransformer.generation.prompt import Prompt, lengths_of
from minitransformer.generation.settings import GenerationConfig
from minitransformer.generation.stopping import Stopping
from minitransformer.model import Output, Transformer
from minitransformer.model.evaluation import evaluation
from minitransformer.text import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What `generate` gives when it is asked for more than the text. R texts, N new tokens each, T' with the prompt."""

    sequences: Tensor  # int [R T']
    texts: tuple[str, ...] | None = None  # where the prompts were texts
    probabilities: Tensor | None = None  # [R N V], after the processors; zeros after the end
    log_probabilities: Tensor | None = None  # [R N], of the token that was chosen; 0 after the end
    attentions: tuple[Tensor, ...] | None = None  # each layer's weights: [R H T' T']
    cross_attentions: tuple[Tensor, ...] | None = None  # [R H T' S]
    encoder_attentions: tuple[Tensor, ...] | None = None  # [R H S S]


@torch.no_grad()
def look_back(
    model: Transformer,
    prompt: Prompt,
    sequences: Tensor,
    config: GenerationConfig,
    *,
    scores: bool,
    attentions: bool,
    tokenizer: Tokenizer | None = None,
) -> Generation:
    """Read the finished texts once more, all their tokens in one pass. sequences int [R T'].

    In half precision one pass rounds otherwise than many: a token at the edge of top_k may come out as impossible, -∞.
    The probabilities are the softmax of the scores after the processors. In a beam search these work on
    log-probabilities, whose sum is a text's score; with processors that sum is another than that of log_probabilities.
    """
    lengths = lengths_of(model, config, prompt)
    prompt = prompt.repeat(len(sequences) // len(prompt.ids))
    with evaluation(model):
        output = _read(model, prompt, sequences, attentions=attentions)
    probabilities = log_probabilities = None
    if scores and output.last_hidden_state is not None:
        logits = model.token_logits(output.last_hidden_state[:, lengths.prompt - 1 : -1]).float()  # [R N V]
        if config.num_beams > 1:
            logits = logits.log_softmax(-1)
        found = processors(config, lengths, prompt.attention_mask)
        ended = torch.zeros(len(sequences), 1, dtype=torch.bool, device=sequences.device)
        stopping, steps = Stopping(config, lengths.longest, tokenizer), []
        for step, length in enumerate(range(lengths.prompt, sequences.shape[1])):
            of_step = process(found, sequences[:, :length], logits[:, step]).softmax(-1)  # [R V]
            steps.append(of_step.masked_fill(ended, 0))
            ended |= ended.new_tensor(stopping(sequences[:, : length + 1]))[:, None]
        probabilities = torch.stack(steps, dim=1)  # [R N V]
        chosen = probabilities.gather(2, sequences[:, lengths.prompt :, None])[..., 0]  # [R N]
        log_probabilities = torch.where(probabilities.any(-1), chosen.log(), 0)
    two = model.encoder is not None
    return Generation(
        sequences=sequences,
        probabilities=probabilities,
        log_probabilities=log_probabilities,
        attentions=output.decoder_attentions if two else output.attentions,
        cross_attentions=output.cross_attentions,
        encoder_attentions=output.encoder_attentions,
    )


def _read(model: Transformer, prompt: Prompt, sequences: Tensor, *, attentions: bool) -> Output:
    """The pass: sequences int [R T'] -> their logits and, if asked for, attentions."""
    if prompt.source is not None:
        return model(prompt.source, prompt.source_mask, decoder_input_ids=sequences, output_attentions=attentions)
    if prompt.attention_mask is None:
        return model(sequences, output_attentions=attentions)
    new = sequences.shape[1] - prompt.ids.shape[1]
    mask = torch.nn.functional.pad(prompt.attention_mask, (0, new), value=1)  # [R T']
    return model(sequences, mask, position_ids=positions(model, sequences, mask), output_attentions=attentions)
