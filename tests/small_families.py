"""One small model for each family: a config of odd sizes, and variants of it.

Every field that the mathematics depends on leaves its default in one variant or another. "plain" and "odd" are tested
with every head, "…decoder" as causal language models, the others with the base and its main head.
"""

BERT_SIZES = {
    "vocab_size": 53,
    "hidden_size": 21,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 37,
    "max_position_embeddings": 19,
    "type_vocab_size": 3,
}
GPT_SIZES = {
    "vocab_size": 47,
    "n_embd": 15,
    "n_layer": 3,
    "n_head": 5,
    "n_positions": 17,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
LLAMA_SIZES = {
    "vocab_size": 47,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 29,
    "max_position_embeddings": 31,
    "pad_token_id": 0,
}
BART_SIZES = {
    "vocab_size": 43,
    "d_model": 18,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 23,
    "decoder_ffn_dim": 29,
    "max_position_embeddings": 21,
}
IMAGE_SIZES = {
    "hidden_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 33,
    "image_size": 15,
    "patch_size": 4,
    "num_channels": 3,
}
SIZES = {
    "bert": BERT_SIZES,
    "roberta": {**BERT_SIZES, "pad_token_id": 1},
    "xlm-roberta": {**BERT_SIZES, "pad_token_id": 1, "type_vocab_size": 1},
    "distilbert": {
        "vocab_size": 53,
        "dim": 21,
        "n_layers": 2,
        "n_heads": 3,
        "hidden_dim": 37,
        "max_position_embeddings": 19,
    },
    "albert": {**BERT_SIZES, "embedding_size": 13, "num_hidden_layers": 3},
    "electra": {**BERT_SIZES, "embedding_size": 13},
    "openai-gpt": GPT_SIZES,
    "gpt2": GPT_SIZES,
    "llama": LLAMA_SIZES,
    "mistral": {**LLAMA_SIZES, "sliding_window": None},
    "qwen2": LLAMA_SIZES,
    "qwen3": {**LLAMA_SIZES, "head_dim": 10},
    "t5": {
        "vocab_size": 43,
        "d_model": 18,
        "d_kv": 5,
        "d_ff": 23,
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 11,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "initializer_factor": 0.3,
    },
    "bart": {**BART_SIZES, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
    "marian": {**BART_SIZES, "pad_token_id": 42, "eos_token_id": 0, "decoder_start_token_id": 42},
    "vit": IMAGE_SIZES,
    "deit": IMAGE_SIZES,
}
BERT_VARIANTS = {
    "plain": {},
    "odd": {
        "hidden_act": "gelu_new",
        "layer_norm_eps": 0.07,
        "num_attention_heads": 7,
        "tie_word_embeddings": False,
    },
    "relu": {"hidden_act": "relu", "layer_norm_eps": 1e-5},
    "silu": {"hidden_act": "silu", "num_hidden_layers": 3},
}
BERT_DECODERS = {
    "decoder": {"is_decoder": True},
    "odd-decoder": {"is_decoder": True, "hidden_act": "silu", "layer_norm_eps": 0.07, "tie_word_embeddings": False},
}
LLAMA_VARIANTS = {
    "plain": {},
    "odd": {
        "hidden_act": "gelu_pytorch_tanh",
        "rms_norm_eps": 0.07,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    },
    "one": {"num_key_value_heads": 1, "num_hidden_layers": 3, "hidden_act": "gelu"},
}
SEQ2SEQ_VARIANTS = {
    "plain": {},
    "odd": {"activation_function": "gelu_new", "scale_embedding": True, "encoder_attention_heads": 6},
    "relu": {"activation_function": "relu", "decoder_layers": 3},
    "silu": {"activation_function": "swish", "scale_embedding": True},
}
VARIANTS = {
    "bert": {**BERT_VARIANTS, **BERT_DECODERS},
    "roberta": {**BERT_VARIANTS, **BERT_DECODERS},
    "xlm-roberta": {**BERT_VARIANTS, **BERT_DECODERS},
    "distilbert": {
        "plain": {},
        "odd": {"activation": "gelu_new", "n_heads": 7, "tie_word_embeddings": False, "sinusoidal_pos_embds": True},
        "relu": {"activation": "relu", "n_layers": 3},
        "silu": {"activation": "silu"},
    },
    "albert": {
        "plain": {},
        "odd": {**BERT_VARIANTS["odd"], "num_hidden_groups": 2, "num_hidden_layers": 5, "hidden_act": "gelu"},
        "same-width": {"embedding_size": 21, "num_hidden_groups": 3},
        "relu": {"hidden_act": "relu", "num_hidden_layers": 6, "num_hidden_groups": 2},
    },
    "electra": {**BERT_VARIANTS, **BERT_DECODERS, "same-width": {"embedding_size": 21}},
    "openai-gpt": {
        "plain": {},
        "odd": {"afn": "relu", "layer_norm_epsilon": 0.07, "tie_word_embeddings": False},
        "silu": {"afn": "swish", "n_head": 3},
    },
    "gpt2": {
        "plain": {},
        "odd": {
            "activation_function": "gelu",
            "layer_norm_epsilon": 0.07,
            "n_inner": 23,
            "scale_attn_weights": False,
            "tie_word_embeddings": False,
        },
        "relu": {"activation_function": "relu", "n_head": 3, "n_inner": 31},
        "silu": {"activation_function": "silu", "layer_norm_epsilon": 1e-12},
    },
    "llama": {**LLAMA_VARIANTS, "biased": {"attention_bias": True, "mlp_bias": True, "head_dim": 10}},
    "mistral": {**LLAMA_VARIANTS, "window": {"sliding_window": 3}, "wide": {"sliding_window": 50}},
    "qwen2": LLAMA_VARIANTS,
    "qwen3": {**LLAMA_VARIANTS, "biased": {"attention_bias": True}},
    "t5": {
        "plain": {},
        "odd": {
            "feed_forward_proj": "gated-gelu",
            "layer_norm_epsilon": 0.07,
            "tie_word_embeddings": False,
            "num_decoder_layers": None,
            "decoder_start_token_id": 3,
        },
        "gelu": {"feed_forward_proj": "gelu", "d_kv": 3, "relative_attention_num_buckets": 6},
        "silu": {"feed_forward_proj": "gated-silu", "relative_attention_max_distance": 30},
    },
    "bart": {**SEQ2SEQ_VARIANTS, "untied": {"tie_word_embeddings": False}},
    "marian": {
        **SEQ2SEQ_VARIANTS,
        "unshared": {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 45},
    },
    "vit": {
        "plain": {},
        "odd": {"hidden_act": "gelu_new", "layer_norm_eps": 0.07, "qkv_bias": False, "image_size": [9, 14]},
        "rectangles": {"patch_size": [3, 5], "num_channels": 1, "hidden_act": "relu"},
    },
    "deit": {
        "plain": {},
        "odd": {"hidden_act": "gelu_new", "layer_norm_eps": 0.07, "qkv_bias": False, "image_size": [9, 14]},
    },
}
