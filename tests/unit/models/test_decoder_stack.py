"""Guards our decoder stack by transformers' own forward, on the same embeddings and positions.

The reference is one call over prompt and tokens without any cache, with its own masks, norms and
rotary embedding; eager attention where attention weights are compared.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.config import ModelConfig, PromptConfig
from pipeline.decoding.pruning import prune
from pipeline.decoding.session import NO_TAPS, Taps
from pipeline.models import packed_linear
from pipeline.models.loading import load_model
from pipeline.speculation_config import PruningPolicy
from tests.tiny_models import FAMILIES, tiny_clip, write_tiny_model

TOKENS = [50, 61, 72, 83, 94, 105, 116]
MAX_LENGTH = 160
PROMPTS = [(4, "the dog"), (9, "describe this video in detail"), (1, "car")]


def load(folder, dtype):
    return load_model(ModelConfig(name=str(folder), dtype=dtype), torch.device("cpu"))


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    return write_tiny_model(request.param, tmp_path_factory.mktemp("stack"))


@pytest.fixture(scope="module")
def model(folder):
    return load(folder, "float32")


def prompts(model):
    return [
        model.prepare(tiny_clip(frames, seed=frames), PromptConfig(text=text))
        for frames, text in PROMPTS
    ]


class Reference:
    """transformers' forward over a prompt and the tokens after it."""

    def __init__(self, model, inputs, tokens=TOKENS):
        with torch.inference_mode():
            language = model.model.model.language_model
            features = model.encode_video(inputs.vision)
            if inputs.kept_visual is not None:
                features = features[inputs.kept_visual]
            ids = torch.cat([inputs.token_ids, torch.tensor(tokens)])
            embeddings = language.embed_tokens(ids).clone()
            embeddings[: inputs.num_tokens][inputs.visual_mask] = features
            after = torch.arange(len(tokens)) + inputs.next_position
            after = after.expand(*inputs.position_ids.shape[:-1], -1)
            positions = torch.cat([inputs.position_ids, after], dim=-1)[..., None, :]
            model.model.set_attn_implementation("eager")
            try:
                output = language(
                    inputs_embeds=embeddings[None],
                    position_ids=positions,
                    # Without a mask, positions with gaps would be taken for packed sequences.
                    attention_mask=torch.ones(1, len(ids)),
                    output_attentions=True,
                    output_hidden_states=True,
                    use_cache=False,
                )
            finally:
                model.model.set_attn_implementation("sdpa")
            logits = model.model.lm_head(output.last_hidden_state)[0].float()
            self.logits = logits[inputs.num_tokens - 1 :, : model.vocab_size]
            self.attentions = [weights[0].float().mean(0) for weights in output.attentions]
            self.states = [states[0] for states in output.hidden_states[1:]]


def ours(model, inputs, splits, taps=NO_TAPS, chunk=None):
    """Prefill output, and logits and attention shares of TOKENS fed in calls of these sizes."""
    session = model.open_session(1, MAX_LENGTH, taps)
    session.start_prefill(0, inputs)
    while (prefill := session.continue_prefill(0, chunk or inputs.num_tokens)) is None:
        pass
    outputs, start = [], 0
    for count in splits:
        outputs.append(session.forward([0], [TOKENS[start : start + count]]))
        start += count
    logits = torch.cat([prefill.logits[None], *(output.logits[0] for output in outputs)])
    return prefill, logits, outputs


def assert_close(actual, expected, tolerance=1e-4):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("splits", [[1] * 7, [7], [2, 4, 1]])
@pytest.mark.parametrize("prompt", range(len(PROMPTS)))
def test_logits_are_those_of_transformers(model, prompt, splits):
    inputs = prompts(model)[prompt]
    _, logits, _ = ours(model, inputs, splits)
    assert_close(logits, Reference(model, inputs).logits)


def test_logits_are_those_of_transformers_with_packed_weights(folder, monkeypatch):
    """The tiny models' weights are too small to be packed in fp32 by themselves."""
    monkeypatch.setattr(packed_linear, "_SMALL_WEIGHT", 0)
    model = load(folder, "float32")
    inputs = prompts(model)[0]
    _, logits, _ = ours(model, inputs, [1, 4, 2])
    assert_close(logits, Reference(model, inputs).logits)


def test_in_bfloat16_the_error_is_that_of_bfloat16(folder, model):
    """Ours is as near to fp32 as transformers' own bf16 forward is, within a factor."""
    low = load(folder, "bfloat16")
    inputs = prompts(low)[1]
    exact = Reference(model, prompts(model)[1]).logits
    theirs = (Reference(low, inputs).logits - exact).abs().mean()
    for splits, chunk in [([1] * 7, None), ([7], 9), ([3, 4], 40)]:
        _, logits, _ = ours(low, inputs, splits, chunk=chunk)
        assert logits.dtype is torch.float32
        assert (logits - exact).abs().mean() < 1.5 * theirs


def test_in_bfloat16_rows_of_a_batch_equal_their_solo_runs(folder):
    low = load(folder, "bfloat16")
    session = low.open_session(3, MAX_LENGTH)
    for slot, inputs in enumerate(prompts(low)):
        session.prefill(slot, inputs)
    logits = session.forward([2, 0, 1], [TOKENS, TOKENS[:3], TOKENS[:1]]).logits
    for row, (slot, count) in enumerate([(2, 7), (0, 3), (1, 1)]):
        _, alone, _ = ours(low, prompts(low)[slot], [7])
        expected = alone[1 : 1 + count]
        error = (logits[row, :count] - expected).abs().mean() / expected.abs().mean()
        assert error < 0.02


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("splits", [[1] * 7, [7], [2, 4, 1]])
def test_attention_to_the_video_is_that_of_eager_attention(model, layer, splits):
    inputs = prompts(model)[1]
    expected = Reference(model, inputs).attentions[layer][:, : inputs.num_tokens]
    prefill, _, outputs = ours(model, inputs, splits, Taps(attention_layer=layer), chunk=50)
    visual = inputs.visual_mask
    assert prefill.visual_attention.dtype is torch.float32
    assert_close(prefill.visual_attention, expected[inputs.num_tokens - 1, visual], 1e-5)
    shares = torch.cat([output.visual_attention[0] for output in outputs])
    assert_close(shares, expected[inputs.num_tokens :, visual].sum(-1), 1e-5)
    assert 0 < shares.min() < shares.max() < 1


def test_attention_of_a_block_too_long_to_fold(model):
    """A call of 42 tokens attends by repeated keys; a K of 64 is allowed, and captions are read."""
    inputs = prompts(model)[1]
    tokens = TOKENS * 6
    session = model.open_session(1, MAX_LENGTH + len(tokens), Taps(attention_layer=1))
    session.prefill(0, inputs)
    shares = session.forward([0], [tokens]).visual_attention[0]
    expected = Reference(model, inputs, tokens).attentions[1][inputs.num_tokens :]
    assert_close(shares, expected[:, : inputs.num_tokens][:, inputs.visual_mask].sum(-1), 1e-5)


def test_attention_and_states_in_a_ragged_batch_of_scattered_slots(model):
    taps = Taps(states_layer=0, attention_layer=1)
    session = model.open_session(4, MAX_LENGTH, taps)
    for slot, inputs in zip([3, 0, 2], prompts(model)):
        session.prefill(slot, inputs)
    counts = [7, 2, 5]
    output = session.forward([3, 0, 2], [TOKENS[:count] for count in counts])
    for row, (inputs, count) in enumerate(zip(prompts(model), counts)):
        reference = Reference(model, inputs)
        weights = reference.attentions[1][inputs.num_tokens :, : inputs.num_tokens]
        shares = weights[:count, inputs.visual_mask].sum(-1)
        assert_close(output.visual_attention[row, :count], shares, 1e-5)
        states = reference.states[0][inputs.num_tokens :]
        assert_close(output.states[row, :count], states[:count])


def test_a_slot_used_again_forgets_where_its_video_was(model):
    session = model.open_session(1, MAX_LENGTH, Taps(attention_layer=1))
    for inputs in (prompts(model)[1], prompts(model)[2]):
        session.prefill(0, inputs)
        share = session.forward([0], [TOKENS]).visual_attention[0]
        session.release(0)
    weights = Reference(model, inputs).attentions[1][inputs.num_tokens :, : inputs.num_tokens]
    assert_close(share, weights[:, inputs.visual_mask].sum(-1), 1e-5)


def test_without_a_video_no_attention_goes_to_it(model):
    inputs = prompts(model)[0]
    text = inputs.token_ids[~inputs.visual_mask]
    blind = replace(
        inputs,
        token_ids=text,
        position_ids=torch.arange(len(text)),
        visual_mask=torch.zeros(len(text), dtype=torch.bool),
        next_position=len(text),
        vision={},
    )
    session = model.open_session(1, MAX_LENGTH, Taps(attention_layer=1))
    assert session.prefill(0, blind).visual_attention is None
    assert session.forward([0], [TOKENS]).visual_attention.count_nonzero() == 0


@pytest.mark.parametrize("keep_ratio", [0.1, 0.6])
def test_a_pruned_prompt_scores_as_transformers_does_on_what_is_left(model, keep_ratio):
    inputs = prune(prompts(model)[1], keep_ratio, PruningPolicy.UNIFORM)
    assert inputs.num_tokens < prompts(model)[1].num_tokens
    for chunk in (None, 11):
        _, logits, _ = ours(model, inputs, [3, 4], chunk=chunk)
        assert_close(logits, Reference(model, inputs).logits)


class Parallel(nn.Linear):
    """Stands for a tensor-parallel layer: not a plain one, so it must be called."""


def test_layers_of_other_modules_are_called_and_give_the_same(folder, model):
    parallel = load(folder, "float32")
    for layer in parallel.model.model.language_model.layers:
        for parent in (layer.self_attn, layer.mlp):
            for _, module in parent.named_children():
                if isinstance(module, nn.Linear):
                    module.__class__ = Parallel
    inputs = prompts(model)[0]
    _, logits, _ = ours(parallel, inputs, [1, 4, 2])
    assert_close(logits, Reference(model, inputs).logits)


def test_a_tensor_parallel_rank_has_the_heads_of_its_weights(folder):
    """Half of every layer's heads and of its inner features: each rank's cache is half as large."""
    half = load(folder, "float32")
    for layer in half.model.model.language_model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
            linear.weight.data = linear.weight.data.chunk(2)[0]
            linear.bias.data = linear.bias.data.chunk(2)[0]
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight.data = linear.weight.data.chunk(2)[0]
        for linear in (attention.o_proj, mlp.down_proj):
            linear.weight.data = linear.weight.data.chunk(2, dim=1)[0]
    inputs = prompts(half)[0]
    session = half.open_session(1, MAX_LENGTH)
    session.prefill(0, inputs)
    assert session._cache._storage.shape[2] == 1
    assert session.forward([0], [TOKENS]).logits.isfinite().all()


def test_sessions_share_one_stack_and_the_model_keeps_no_trace(folder):
    fresh = load(folder, "float32")
    language = fresh.model.model.language_model
    before = {name: set(module.__dict__) for name, module in language.named_modules()}
    addresses = [parameter.data_ptr() for parameter in language.parameters()]
    first, second = fresh.open_session(1, MAX_LENGTH), fresh.open_session(2, MAX_LENGTH)
    first.prefill(0, prompts(fresh)[0])
    first.forward([0], [TOKENS])
    assert first._stack is second._stack
    assert {n: set(m.__dict__) for n, m in language.named_modules()} == before
    assert [parameter.data_ptr() for parameter in language.parameters()] == addresses
