"""The config.json of well-known models, as they are on the hub, with every field they carry.

Oracle: transformers, which builds a model from the same fields (only depth and widths are made
small) and computes the logits. At its own size, each config is read to the context it should have.
"""

import json

import pytest
import torch
import transformers

from tests.base.test_lenient import compare
from tests.checkpoints import CONTEXT, VOCAB, needs_new_oracle, randomise, tokenizer
from tinymem.base.families import read_config

GPT2 = {
    **{"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1},
    **{"bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02},
    **{"layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768},
    **{"n_head": 12, "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "vocab_size": 50257},
    **{"summary_activation": None, "summary_first_dropout": 0.1, "summary_type": "cls_index"},
    **{"summary_proj_to_labels": True, "summary_use_proj": True},
    **{"task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}},
}
NEOX = {
    **{"architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0},
    **{"hidden_act": "gelu", "hidden_size": 768, "initializer_range": 0.02},
    **{"intermediate_size": 3072, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048},
    **{"model_type": "gpt_neox", "num_attention_heads": 12, "num_hidden_layers": 12},
    **{"rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False},
    **{"torch_dtype": "float16", "use_cache": True, "use_parallel_residual": True},
    **{"vocab_size": 50304, "transformers_version": "4.24.0"},
}
LLAMA = {
    **{"architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2},
    **{"hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02},
    **{"intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama"},
    **{"num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32},
    **{"pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None},
    **{"tie_word_embeddings": False, "torch_dtype": "float16", "use_cache": True},
    **{"vocab_size": 32000, "transformers_version": "4.31.0.dev0"},
}
LLAMA32 = {
    **LLAMA,
    **{"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000, "head_dim": 64},
    **{"eos_token_id": [128001, 128008, 128009], "hidden_size": 2048, "intermediate_size": 8192},
    **{"max_position_embeddings": 131072, "mlp_bias": False, "num_hidden_layers": 16},
    **{"num_key_value_heads": 8, "rope_theta": 500000.0, "tie_word_embeddings": True},
    "rope_scaling": {
        **{"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0},
        **{"original_max_position_embeddings": 8192, "rope_type": "llama3"},
    },
    "vocab_size": 128256,
}
SMOLLM2 = {
    **LLAMA,
    **{"attention_bias": False, "hidden_size": 576, "intermediate_size": 1536, "mlp_bias": False},
    **{"is_llama_config": True, "rope_interleaved": False, "rope_theta": 100000},
    **{"num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 30},
    **{"max_position_embeddings": 8192, "tie_word_embeddings": True, "vocab_size": 49152},
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
}
MISTRAL = {
    **{k: v for k, v in LLAMA.items() if k not in ("pretraining_tp", "rope_scaling")},
    **{"architectures": ["MistralForCausalLM"], "model_type": "mistral", "rope_theta": 10000.0},
    **{"intermediate_size": 14336, "max_position_embeddings": 32768, "num_key_value_heads": 8},
    **{"sliding_window": 4096, "torch_dtype": "bfloat16"},
}
QWEN = {
    **{k: v for k, v in LLAMA.items() if k not in ("pretraining_tp", "rope_scaling")},
    **{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "attention_dropout": 0.0},
    **{"hidden_size": 896, "intermediate_size": 4864, "max_position_embeddings": 32768},
    **{"max_window_layers": 24, "num_attention_heads": 14, "num_hidden_layers": 24},
    **{"num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0},
    **{"sliding_window": 32768, "tie_word_embeddings": True, "use_sliding_window": False},
    "vocab_size": 151936,
}
QWEN3 = {
    **QWEN,
    **{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False},
    **{"head_dim": 128, "hidden_size": 1024, "max_position_embeddings": 40960},
    **{"max_window_layers": 28, "num_hidden_layers": 28, "num_key_value_heads": 8},
    **{"rope_scaling": None, "sliding_window": None, "num_attention_heads": 16},
}
CHUNKS = {"chunk_size": 262144, "local_size": 8192, "original_max_position_embeddings": 262144}
REAL = {  # name -> (its fields, its context)
    "gpt2": (GPT2, 1024),
    "gpt2-xl": ({**GPT2, "n_embd": 1600, "n_head": 25, "output_past": True}, 1024),
    "distilgpt2": (
        {**GPT2, "_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}},
        1024,
    ),
    "Cerebras-GPT-111M": (
        {
            **{**GPT2, "activation_function": "gelu", "n_positions": 2048, "n_inner": 3072},
            **{"scale_attn_weights": True, "use_cache": True, "embd_pdrop": 0.0},
        },
        2048,
    ),
    "pythia-160m": (NEOX, 2048),
    "gpt-neox-20b": (
        {
            **{**NEOX, "hidden_act": "gelu_fast", "attention_probs_dropout_prob": 0},
            **{"hidden_dropout_prob": 0, "vocab_size": 50432},
        },
        2048,
    ),
    "RedPajama-INCITE-3B": ({**NEOX, "rotary_pct": 1.0, "use_parallel_residual": False}, 2048),
    "polyglot-ko-1.3b": ({**NEOX, "rotary_pct": 0.5, "torch_dtype": "float16"}, 2048),
    "Llama-2-7b-hf": (LLAMA, 4096),
    "Llama-2-13b-hf": ({**LLAMA, "pretraining_tp": 2, "hidden_size": 5120}, 4096),
    "Llama-3.2-1B": (LLAMA32, 131072),
    "SmolLM2-135M": (SMOLLM2, 8192),
    "deepseek-coder-1.3b-base": (
        {**LLAMA, "rope_scaling": {"factor": 4.0, "type": "linear"}, "rope_theta": 100000},
        4096,
    ),
    "a Llama with dynamic positions": (
        {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        4096,
    ),
    "Falcon3-1B-Base": (
        {**LLAMA, "head_dim": 256, "attention_bias": False, "rope_theta": 1000042},
        4096,
    ),
    "Mistral-7B-v0.1": (MISTRAL, 4096),
    "Mistral-7B-v0.3": ({**MISTRAL, "sliding_window": None, "rope_theta": 1000000.0}, 32768),
    "Mistral-Nemo-Base-2407": ({**MISTRAL, "sliding_window": None, "head_dim": 128}, 32768),
    "Ministral-8B-Instruct-2410": ({**MISTRAL, "sliding_window": 32768}, 32768),
    "h2o-danube-1.8b-base": ({**MISTRAL, "max_position_embeddings": 16384}, 4096),
    "Qwen2-0.5B": (QWEN, 32768),
    "DeepSeek-R1-Distill-Qwen-1.5B": (
        {
            **{**QWEN, "max_position_embeddings": 131072, "max_window_layers": 21},
            **{"sliding_window": 4096, "use_mrope": False, "tie_word_embeddings": False},
        },
        131072,
    ),
    "Qwen2.5-7B-Instruct-1M": (
        {**QWEN, "dual_chunk_attention_config": CHUNKS, "max_position_embeddings": 1010000},
        1010000,
    ),
    "Qwen3-0.6B": (QWEN3, 40960),
}
WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SMALL = WIDTHS | {"num_attention_heads": 4, "max_position_embeddings": CONTEXT}
SMALL_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}


def shrink(fields: dict) -> dict:
    """The same config with small widths; what the family does not have is not added."""
    small = SMALL_GPT2 if fields["model_type"] == "gpt2" else dict(SMALL)
    if "num_key_value_heads" in fields:
        small["num_key_value_heads"] = 2
    if "n_inner" in fields:
        small["n_inner"] = 48
    if "head_dim" in fields:  # also where it is not the width divided by the heads
        small["head_dim"] = 16
    if fields.get("sliding_window") == 4096:
        small["sliding_window"] = 20
    return {**fields, **small, "vocab_size": VOCAB}


@needs_new_oracle
@pytest.mark.parametrize("name", REAL)
def test_configs_of_real_models(name, tmp_path):
    fields, context = REAL[name]
    config, _ = read_config(fields, name)
    assert config.context == context and config.vocab_size == fields["vocab_size"]

    (tmp_path / "config.json").write_text(json.dumps(shrink(fields)))
    asked = transformers.AutoConfig.from_pretrained(tmp_path)
    oracle = transformers.AutoModelForCausalLM.from_config(asked, dtype=torch.float32)
    randomise(oracle, seed=0)
    oracle.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(shrink(fields)))  # instead of the new one
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    assert compare(tmp_path) < 1e-4
