"""The models that are measured: published shapes, random weights. What is in them does not change the time."""

from typing import Any

import torch
import transformers as hf

LLAMA_STYLE = {"hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536, "num_attention_heads": 9}
LLAMA_STYLE |= {"num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 2048}
BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}

# name -> (transformers' class, its config): one for each family, the size that people use most
MODELS: dict[str, tuple[type, Any]] = {
    "MiniLM-L6 (bert)": (
        hf.BertModel,
        hf.BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536),
    ),
    "BERT-base": (hf.BertModel, hf.BertConfig()),
    "RoBERTa-base": (hf.RobertaForMaskedLM, hf.RobertaConfig(max_position_embeddings=514, type_vocab_size=1)),
    "XLM-R-base": (
        hf.XLMRobertaModel,
        hf.XLMRobertaConfig(vocab_size=250002, max_position_embeddings=514, type_vocab_size=1),
    ),
    "DistilBERT-base": (hf.DistilBertForMaskedLM, hf.DistilBertConfig()),
    "ALBERT-base": (hf.AlbertForMaskedLM, hf.AlbertConfig(**BASE)),
    "ELECTRA-small": (hf.ElectraForPreTraining, hf.ElectraConfig()),
    "GPT": (hf.OpenAIGPTLMHeadModel, hf.OpenAIGPTConfig()),
    "GPT-2": (hf.GPT2Model, hf.GPT2Config()),
    "Llama, 135M": (hf.LlamaForCausalLM, hf.LlamaConfig(**LLAMA_STYLE, tie_word_embeddings=True)),
    "Mistral, 135M": (hf.MistralForCausalLM, hf.MistralConfig(**LLAMA_STYLE, tie_word_embeddings=True)),
    "Qwen2-0.5B": (
        hf.Qwen2ForCausalLM,
        hf.Qwen2Config(
            hidden_size=896,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            intermediate_size=4864,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=True,
        ),
    ),
    "Qwen3, 135M": (hf.Qwen3ForCausalLM, hf.Qwen3Config(**LLAMA_STYLE, head_dim=64, tie_word_embeddings=True)),
    "T5-small": (hf.T5ForConditionalGeneration, hf.T5Config(decoder_start_token_id=0)),
    "BART-base": (
        hf.BartForConditionalGeneration,
        hf.BartConfig(
            d_model=768,
            encoder_layers=6,
            decoder_layers=6,
            encoder_attention_heads=12,
            decoder_attention_heads=12,
            encoder_ffn_dim=3072,
            decoder_ffn_dim=3072,
        ),
    ),
    "Marian": (
        hf.MarianMTModel,
        hf.MarianConfig(
            d_model=512,
            encoder_layers=6,
            decoder_layers=6,
            encoder_attention_heads=8,
            decoder_attention_heads=8,
            encoder_ffn_dim=2048,
            decoder_ffn_dim=2048,
            max_position_embeddings=512,
            activation_function="swish",
            scale_embedding=True,
        ),
    ),
    "ViT-base": (hf.ViTForImageClassification, hf.ViTConfig()),
    "DeiT-base": (hf.DeiTForImageClassificationWithTeacher, hf.DeiTConfig()),
}


def make_batch(config: Any, batch: int, length: int, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Random inputs, nothing padded: texts of that length (for both stacks, where there are two), or images."""
    if hasattr(config, "image_size"):
        return {"pixel_values": torch.randn(batch, 3, config.image_size, config.image_size, device=device)}
    ids = torch.randint(3, config.vocab_size - 3, (batch, length), device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {**inputs, "decoder_input_ids": ids} if config.is_encoder_decoder else inputs
