"""The bounds of activations against the real code, run at real sizes on the meta device.

No GPU is needed to count what is alive. Attention is taken to be a fused kernel, as on GPUs: the
meta device would count the scores of a plain one.
"""

import pytest
import torch
import torch.nn.functional as F
from live_bytes import LiveBytes
from transformers import AutoConfig
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

from pipeline.config import ModelConfig, StorageConfig
from pipeline.decoding.cache import SlotCache
from pipeline.models import packed_linear
from pipeline.models.decoder_stack import DecoderStack
from pipeline.models.registry import FAMILIES
from pipeline.preflight.memory import Load, chunk_bytes, verify_bytes
from pipeline.preflight.model_config import PUBLISHED, sizes_of

QWEN, LLAVA = "Qwen/Qwen2.5-VL-72B-Instruct", "llava-hf/llava-onevision-qwen2-72b-ov-hf"
NUM_LAYERS = 2


def on_meta(name: str, num_vision_layers: int | None = None):
    """The model with few decoder layers, in bfloat16: layers run one after another."""
    config = AutoConfig.from_pretrained(PUBLISHED / f"{name}.json")
    config.text_config.num_hidden_layers = NUM_LAYERS
    config.text_config.layer_types = config.text_config.layer_types[:NUM_LAYERS]
    if num_vision_layers:
        config.vision_config.num_hidden_layers = num_vision_layers
    with torch.device("meta"):
        return FAMILIES[config.model_type].model_class._from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )


@pytest.fixture(autouse=True)
def fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **_: torch.empty_like(q))


def test_encoding_a_clip_with_qwens_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    num_frames, height_px, width_px = 16, 588, 1008
    grid = torch.tensor([[num_frames // 2, height_px // 14, width_px // 14]])
    num_patches = int(grid.prod())
    monkeypatch.setattr(
        modeling_qwen2_5_vl,
        "get_vision_position_ids",
        lambda *_, **__: torch.empty(num_patches, 2, device="meta"),
    )
    model = on_meta(QWEN, num_vision_layers=2)
    with torch.no_grad(), LiveBytes() as live:
        pixels = torch.empty(num_patches, 3 * 2 * 14 * 14, device="meta")
        model.model.get_video_features(pixels, grid)
    sizes, _ = sizes_of(ModelConfig(name=QWEN), StorageConfig())
    bound = sizes.vision.activation_bytes(num_frames, height_px * width_px, sizes.hidden, 2)
    assert live.peak <= bound <= 1.5 * live.peak


def test_encoding_a_clip_with_llavas_tower() -> None:
    model = on_meta(LLAVA)
    with torch.no_grad(), LiveBytes() as live:
        pixels = torch.empty(1, 32, 3, 384, 384, device="meta")
        model.model.get_video_features(pixels.to(torch.bfloat16))
    sizes, _ = sizes_of(ModelConfig(name=LLAVA), StorageConfig())
    bound = sizes.vision.activation_bytes(32, 384 * 384, sizes.hidden, 2)
    assert live.peak <= bound <= 1.5 * live.peak


@pytest.mark.parametrize(
    ("slots", "num_new", "length"),
    [([0], [2048], 20_000), ([0], [2048], 0), ([0, 2, 3, 4], [5, 5, 5, 5], 20_000)],
    ids=["chunk", "first-chunk", "verification"],
)
def test_a_step_of_the_decoder(
    slots: list[int], num_new: list[int], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of a prompt, and a verification of rows that are no neighbours."""
    # Weights of the meta device can't be made views of others.
    monkeypatch.setattr(
        packed_linear, "_share", lambda linears: torch.cat([each.weight for each in linears])
    )
    model, load = on_meta(QWEN), Load(len(slots), num_new[0] - 1, 2048, length + num_new[0])
    decoder = model.model.language_model
    stack = DecoderStack(decoder, model.lm_head, head_size=128, vocab_size=152064)
    cache = SlotCache(NUM_LAYERS, 5, 8, load.slot_tokens, 128, torch.bfloat16, stack.device)
    for slot in slots:
        cache.truncate(slot, length)
    rows, longest = len(slots), max(num_new)
    embeddings = torch.empty(rows, longest, 8192, dtype=torch.bfloat16, device="meta")
    rope = tuple(torch.empty(2, longest, 1, 128, dtype=torch.bfloat16, device="meta"))
    with torch.inference_mode(), LiveBytes() as live:
        output = stack.run(embeddings, rope, cache, cache.begin(slots, num_new))
        hidden = output.hidden if rows > 1 else output.hidden[0, -1]
        stack.logits(hidden)
    sizes, _ = sizes_of(ModelConfig(name=QWEN), StorageConfig())
    bound = (verify_bytes if rows > 1 else chunk_bytes)(sizes, 1, load)
    assert live.peak <= bound <= 1.5 * live.peak
