"""What becomes of each field of each config: read, refused if it would change the numbers, or without effect."""

from minitransformer.families import FAMILIES

IMAGES = {"vit", "deit"}
BERT_LIKE = ("bert", "roberta", "xlm-roberta", "electra")
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")
GPT_LIKE = ("openai-gpt", "gpt2")
BART_LIKE = ("bart", "marian")
VIT_LIKE = ("vit", "deit")


def tables(*parts):
    """Several families' fields at once: (families, {field: value}), merged by family."""
    merged = {family: {} for family in FAMILIES}
    for families, fields in parts:
        for family in families:
            merged[family].update(fields)
    return merged


# Another value of each field that our config depends on.
READ = tables(
    (FAMILIES.keys() - {"marian"}, {"id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}}),
    (
        (*BERT_LIKE, "albert"),
        {
            "vocab_size": 60,
            "hidden_size": 42,
            "num_hidden_layers": 4,
            "num_attention_heads": 7,
            "intermediate_size": 40,
            "hidden_act": "relu",
            "hidden_dropout_prob": 0.3,
            "attention_probs_dropout_prob": 0.3,
            "max_position_embeddings": 30,
            "type_vocab_size": 5,
            "layer_norm_eps": 0.5,
            "tie_word_embeddings": False,
        },
    ),
    (BERT_LIKE, {"classifier_dropout": 0.3, "is_decoder": True}),
    (("roberta", "xlm-roberta"), {"pad_token_id": 4}),
    (("albert",), {"embedding_size": 14, "num_hidden_groups": 2, "classifier_dropout_prob": 0.3}),
    (("electra",), {"embedding_size": 14, "summary_activation": "tanh", "summary_last_dropout": 0.3}),
    (
        ("distilbert",),
        {
            "vocab_size": 60,
            "max_position_embeddings": 30,
            "n_layers": 3,
            "n_heads": 7,
            "dim": 42,
            "hidden_dim": 40,
            "dropout": 0.3,
            "attention_dropout": 0.3,
            "activation": "relu",
            "qa_dropout": 0.3,
            "seq_classif_dropout": 0.3,
            "tie_word_embeddings": False,
        },
    ),
    (
        GPT_LIKE,
        {
            "vocab_size": 60,
            "n_positions": 30,
            "n_embd": 20,
            "n_layer": 2,
            "n_head": 3,
            "resid_pdrop": 0.3,
            "embd_pdrop": 0.3,
            "attn_pdrop": 0.3,
            "layer_norm_epsilon": 0.5,
            "summary_first_dropout": 0.3,
            "pad_token_id": 4,
            "tie_word_embeddings": False,
        },
    ),
    (("openai-gpt",), {"afn": "relu"}),
    (("gpt2",), {"n_inner": 40, "activation_function": "relu", "scale_attn_weights": False}),
    (
        LLAMA_LIKE,
        {
            "vocab_size": 60,
            "hidden_size": 48,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "hidden_act": "relu",
            "max_position_embeddings": 40,
            "rms_norm_eps": 0.5,
            "pad_token_id": 4,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
            "attention_dropout": 0.3,
        },
    ),
    (("llama", "mistral", "qwen3"), {"head_dim": 8}),
    (("llama",), {"attention_bias": True, "mlp_bias": True}),
    (("qwen3",), {"attention_bias": True}),
    (("mistral",), {"sliding_window": 5}),
    (
        ("t5",),
        {
            "vocab_size": 60,
            "d_model": 20,
            "d_kv": 6,
            "d_ff": 40,
            "num_layers": 4,
            "num_decoder_layers": 4,
            "num_heads": 5,
            "relative_attention_num_buckets": 10,
            "relative_attention_max_distance": 20,
            "dropout_rate": 0.3,
            "layer_norm_epsilon": 0.5,
            "feed_forward_proj": "gated-relu",
            "pad_token_id": 4,
            "eos_token_id": 5,
            "classifier_dropout": 0.3,
            "scale_decoder_outputs": False,
            "tie_word_embeddings": False,
        },
    ),
    (
        BART_LIKE,
        {
            "vocab_size": 60,
            "max_position_embeddings": 30,
            "encoder_layers": 2,
            "encoder_ffn_dim": 40,
            "encoder_attention_heads": 6,
            "decoder_layers": 4,
            "decoder_ffn_dim": 40,
            "decoder_attention_heads": 3,
            "activation_function": "relu",
            "d_model": 36,
            "dropout": 0.3,
            "attention_dropout": 0.3,
            "activation_dropout": 0.3,
            "scale_embedding": True,
            "pad_token_id": 4,
            "decoder_start_token_id": 4,
        },
    ),
    (("bart",), {"classifier_dropout": 0.3, "eos_token_id": 5, "tie_word_embeddings": False}),
    (("marian",), {"share_encoder_decoder_embeddings": False}),
    (
        VIT_LIKE,
        {
            "hidden_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "intermediate_size": 40,
            "hidden_act": "relu",
            "hidden_dropout_prob": 0.3,
            "attention_probs_dropout_prob": 0.3,
            "layer_norm_eps": 0.5,
            "image_size": 20,
            "patch_size": 5,
            "num_channels": 1,
            "qkv_bias": False,
        },
    ),
)
# Values that are refused, for one head or another.
LAYERS_OF_TWO_KINDS = ["sliding_attention", "full_attention"]
NOWHERE = {
    "is_causal": (False,),
    "per_layer_config": ({"0": {"intermediate_size": 20}},),
    "tie_last_hidden_states": (False,),
    "transformers_weights": ("other.safetensors",),
    "quantization_config": ({"bits": 4},),
    "auto_map": ({"AutoModel": "code.Model"},),
    "pruned_heads": ({"0": [1]},),
    "add_cross_attention": (True,),
    "cross_attention_hidden_size": (5,),
    "num_labels": (7, "3"),
}
STRETCHED = tuple(
    {"rope_theta": 300.0, **said}
    for said in (
        {"rope_type": "linear", "factor": 2.0},
        {"type": "linear", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn", "factor": 2.0},
        {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"rope_type": "default", "partial_rotary_factor": 0.5},
        {"rope_type": "default", "mrope_section": [1, 1, 1]},
        {"full_attention": {"rope_type": "default"}},
        {"rope_type": ["default"]},
    )
)
REFUSED = tables(
    (FAMILIES, NOWHERE),
    (FAMILIES.keys() - {"marian"}, {"problem_type": ("ranking", 5)}),
    (FAMILIES.keys() - {"t5", *BART_LIKE}, {"is_encoder_decoder": (True,)}),
    ((*BERT_LIKE, "distilbert", "albert"), {"position_embedding_type": ("relative_key", "relative_key_query")}),
    (BERT_LIKE, {"is_decoder": (True, "yes")}),
    ((*BERT_LIKE, "albert"), {"hidden_act": ("quick_gelu", "gelu_10", "relu2", 5)}),
    (("roberta", "xlm-roberta"), {"pad_token_id": (-1, [1], "1")}),
    (("albert",), {"inner_group_num": (2,)}),
    (
        ("electra",),
        {
            "summary_type": ("mean", "last", "cls_index", "attn"),
            "summary_use_proj": (False,),
            "summary_activation": (None, "", "sigmoid"),
            "summary_proj_to_labels": (True,),
        },
    ),
    (
        GPT_LIKE,
        {
            "summary_type": ("mean", "last", "first", "attn"),
            "summary_use_proj": (False,),
            "summary_activation": ("tanh",),
            "summary_proj_to_labels": (False,),
            "hidden_size": (30,),  # another name of n_embd, which says otherwise
            "num_hidden_layers": (30,),
            "num_attention_heads": (30,),
            "max_position_embeddings": (30,),
        },
    ),
    (("openai-gpt",), {"afn": ("gelu_new", "tanh", 5)}),
    (("gpt2",), {"scale_attn_by_inverse_layer_idx": (True,), "n_inner": (0, 1.5), "activation_function": ("mish",)}),
    (
        LLAMA_LIKE,
        {
            "rope_parameters": STRETCHED,
            "rope_scaling": (*STRETCHED, "linear"),
            "partial_rotary_factor": (0.5,),
            "layer_types": (["chunked_attention"] * 2, LAYERS_OF_TWO_KINDS, ["full_attention"], "full_attention"),
            "token_classification_bias": (False,),
        },
    ),
    (("llama",), {"sliding_window": (4,)}),
    (("mistral",), {"sliding_window": (0, -1, "4", 1.5)}),
    (("qwen2", "qwen3"), {"use_sliding_window": (True, 1)}),
    (
        ("t5",),
        {
            "is_decoder": (True,),
            "dense_act_fn": ("gelu", "gelu_new"),
            "is_gated_act": (True,),
            "feed_forward_proj": ("gated-quick_gelu", "gated-gated-relu", "gated", "relu-gated", 5),
            "scale_decoder_outputs": (None, 0, "no"),
            "num_decoder_layers": (0,),
            "eos_token_id": ([1, 2], "1"),
            "decoder_start_token_id": ([0],),
            "head_dim": (30,),
            "hidden_size": (30,),
        },
    ),
    (
        BART_LIKE,
        {
            "normalize_before": (True,),
            "add_final_layer_norm": (True,),
            "normalize_embedding": (False,),
            "static_position_embeddings": (True,),
            "extra_pos_embeddings": (0, 3),
            "encoder_layerdrop": (0.1,),
            "decoder_layerdrop": (0.1,),
            "decoder_start_token_id": ([0],),
            "num_hidden_layers": (30,),
            "hidden_size": (30,),
            "num_attention_heads": (30,),
        },
    ),
    (("bart",), {"eos_token_id": ([1, 2], "1")}),
    (("marian",), {"tie_word_embeddings": (False,), "decoder_vocab_size": (-1,)}),
    (("distilbert",), {"hidden_size": (30,), "num_attention_heads": (30,), "num_hidden_layers": (30,)}),
    (VIT_LIKE, {"pooler_act": ("relu", "gelu"), "pooler_output_size": (30,), "head_dim": (10,)}),
)
# Another value of each field that no number depends on, and why none does.
TRAINING, GENERATION, OTHERS = "how training begins", "for generating text", "says nothing of the model"
NO_EFFECT = tables(
    (
        FAMILIES,
        {
            "transformers_version": ("4.0.0", OTHERS),
            "_name_or_path": ("x", OTHERS),
            "output_hidden_states": (True, "what is handed out, not what is computed"),
            "output_attentions": (True, "what is handed out, not what is computed"),
            "return_dict": (True, "what is handed out, not what is computed"),
            "dtype": ("float16", "the caller says what weights become"),
            "chunk_size_feed_forward": (3, "the same, in pieces"),
            "label2id": ({"a": 0}, "id2label says it"),
            "torchscript": (True, OTHERS),
            "gradient_checkpointing": (True, "what training keeps in memory"),
            "finetuning_task": ("x", OTHERS),
            "use_bfloat16": (True, "nobody reads it"),
            "attn_implementation": ("eager", "which kernel computes the same"),
        },
    ),
    (FAMILIES.keys() - {"t5", *BART_LIKE}, {"initializer_range": (0.5, TRAINING)}),
    (FAMILIES.keys() - {*IMAGES, "t5", *BART_LIKE}, {"eos_token_id": ([3, 4], GENERATION)}),
    (FAMILIES.keys() - {*IMAGES, "t5"}, {"bos_token_id": (3, GENERATION)}),
    (FAMILIES.keys() - {*IMAGES, "openai-gpt", "distilbert", "albert"}, {"use_cache": (False, GENERATION)}),
    (("bert", "distilbert", "albert", "electra"), {"pad_token_id": (2, "which row of the table has no gradient")}),
    ((*BERT_LIKE, "distilbert", "albert"), {"position_embedding_type": ("absolute", "the only kind")}),
    (("bert",), {"directionality": ("bidi", "nobody reads it"), "pooler_fc_size": (30, "nobody reads it")}),
    (("distilbert",), {"sinusoidal_pos_embds": (True, "how the table begins; the file holds it")}),
    (
        ("albert",),
        {
            "inner_group_num": (1, "the only number"),
            "net_structure_type": (1, "nobody reads it"),
            "gap_size": (1, "nobody reads it"),
            "num_memory_blocks": (1, "nobody reads it"),
            "down_scale_factor": (2, "nobody reads it"),
        },
    ),
    (
        GPT_LIKE,
        {
            "n_ctx": (5, "n_positions says it"),
            "n_special": (5, "nobody reads it"),
            "predict_special_tokens": (False, "nobody reads it"),
        },
    ),
    (("gpt2",), {"reorder_and_upcast_attn": (True, "scores in float32, which they are")}),
    (("llama",), {"pretraining_tp": (2, "nobody reads it")}),
    (LLAMA_LIKE, {"rope_scaling": ({}, "nothing in it"), "partial_rotary_factor": (1.0, "the whole head")}),
    (
        ("qwen2", "qwen3"),
        {
            "sliding_window": (4, "use_sliding_window is false"),
            "max_window_layers": (1, "use_sliding_window is false"),
            "layer_types": (["full_attention"] * 2, "the only kind"),
            "use_mrope": (False, "nobody reads it"),
        },
    ),
    (
        ("t5",),
        {
            "initializer_factor": (0.1, TRAINING),
            "is_encoder_decoder": (False, "the class says it"),
            "n_positions": (5, "there is no end"),
            "output_past": (True, GENERATION),
            "task_specific_params": ({"x": {"prefix": "y"}}, GENERATION),
        },
    ),
    (
        BART_LIKE,
        {
            "init_std": (0.5, TRAINING),
            "is_encoder_decoder": (False, "the class says it"),
            "is_decoder": (True, "the class says it"),
            "forced_eos_token_id": (4, GENERATION),
            "force_bos_token_to_be_generated": (True, GENERATION),
            "extra_pos_embeddings": (2, "the only number"),
            "normalize_before": (False, "the only order"),
            "add_bias_logits": (True, "nobody reads it"),
        },
    ),
    (("marian",), dict.fromkeys(("id2label", "problem_type"), (None, "it has no labels"))),
    (("marian",), {"decoder_vocab_size": (50, "both stacks share one table"), "eos_token_id": (4, GENERATION)}),
    (VIT_LIKE, {"encoder_stride": (8, "for pretraining by masked patches")}),
)
