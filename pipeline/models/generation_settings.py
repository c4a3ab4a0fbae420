"""What a checkpoint's generation config asks for and plain greedy decoding does not do."""

from __future__ import annotations

import reprlib

from transformers import GenerationConfig

_CHANGES_GREEDY: dict[str, object] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "guidance_scale": 1.0,
    "penalty_alpha": 0.0,
    "token_healing": False,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "sequence_bias": None,
    "watermarking_config": None,
    "stop_strings": None,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
}
"""By name, the value beside None at which transformers' greedy ``generate`` does without it."""


def settings_not_applied(config: GenerationConfig) -> list[str]:
    """``name=value`` of each setting that changes greedy decoding in ``generate``, but not here.

    Not those of sampling, which greedy decoding goes without, nor its limits (the run has its own).
    """
    return [
        f"{name}={reprlib.repr(value)}"
        for name, neutral in _CHANGES_GREEDY.items()
        if (value := getattr(config, name, None)) is not None and value != neutral
    ]
