"""The same on tiny models of both families: real caches, rolled back and shared in a batch."""

import pytest
import torch

from pipeline.calibration.lexicon import count_moved
from pipeline.calibration.mismatches import continued, find_mismatches
from pipeline.calibration.reading import TargetCaption
from pipeline.config import ModelConfig, ModelsConfig, PromptConfig
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import StopRule
from pipeline.models.loading import load_pair
from tests.decoding import decode_plainly
from tests.tiny_models import FAMILIES, tiny_clip, write_tiny_pair

MAX_TOKENS = 10


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    target, draft = write_tiny_pair(request.param, tmp_path_factory.mktemp(request.param))
    yield load_pair(
        ModelsConfig(
            target=ModelConfig(name=str(target), dtype="float32"),
            draft=ModelConfig(name=str(draft), dtype="float32"),
            device="cpu",
        )
    )
    torch.set_num_threads(before)


def greedy(model, prompt, begun, num_tokens):
    """Step by step in a session of its own, one slot; the choices and the logits before them."""
    session = model.open_session(1, prompt.num_tokens + MAX_TOKENS)
    logits = session.prefill(0, prompt).logits
    if begun:
        logits = session.forward([0], [begun]).logits[0, -1]
    tokens = list(begun)
    while True:
        tokens.append(int(logits.argmax()))
        if len(tokens) >= num_tokens or tokens[-1] in model.eos_token_ids:
            return tuple(tokens)
        logits = session.forward([0], [tokens[-1:]]).logits[0, 0]


@pytest.fixture(scope="module")
def captions(pair):
    """Of clips of different lengths."""
    target, draft = pair
    prompt = PromptConfig(text="describe this video")
    clips = [tiny_clip(num_frames=2 + 2 * (seed % 2), seed=seed) for seed in range(3)]
    requests = [
        CaptionRequest(str(n), target.prepare(clip, prompt), draft.prepare(clip, prompt))
        for n, clip in enumerate(clips)
    ]
    session = target.open_session(
        2, max(request.target.num_tokens for request in requests) + MAX_TOKENS + 2
    )
    stop = StopRule(target.eos_token_ids, MAX_TOKENS)
    rows = decode_plainly(session, [request.target for request in requests], stop)
    return [TargetCaption(request, row.token_ids) for request, row in zip(requests, rows)]


def test_mismatches_and_their_captions_are_those_of_each_prefix_alone(pair, captions):
    target, draft = pair
    mismatches = find_mismatches(draft, captions, lambda done: None)
    differing = {(m.caption, m.position): m.drafted for m in mismatches}
    assert 0 < len(differing) < sum(len(caption.token_ids) - 1 for caption in captions)
    for index, caption in enumerate(captions):
        for position in range(1, len(caption.token_ids)):
            before, token = caption.token_ids[:position], caption.token_ids[position]
            *_, guess = greedy(draft, caption.request.draft, before, position + 1)
            assert guess == differing.get((index, position), token)

    stop = StopRule(target.eos_token_ids, MAX_TOKENS)
    endings = continued(target, captions, mismatches, stop, lambda done: None, num_slots=2)
    for mismatch, ending in zip(mismatches, endings, strict=True):
        caption = captions[mismatch.caption]
        begun = (*caption.token_ids[: mismatch.position], mismatch.drafted)
        if len(begun) == MAX_TOKENS or mismatch.drafted in target.eos_token_ids:
            assert ending == begun
        else:
            assert ending == greedy(target, caption.request.target, begun, MAX_TOKENS)


def test_a_lexicon_of_real_probabilities_is_of_the_tokenizers_vocabulary(pair, captions):
    """Every place gives the probability of the larger of two videos: at least 1, at most 2."""
    target, _ = pair
    counts = count_moved(target, captions, 2, lambda done: None)
    num_tokens = sum(len(caption.token_ids) for caption in captions)
    assert counts.mass.shape == (target.vocab_size,)
    assert num_tokens < counts.mass.sum() < 2 * num_tokens
    assert (counts.moved >= 0).all()
    assert (counts.moved <= counts.mass).all()
    assert counts.occurrences.sum() == num_tokens
    assert 0 < counts.lexicon().min() < counts.lexicon().max() <= 1
