"""Guards loading: only plain, complete, safe checkpoints load, and errors name the remedy."""

import json
import shutil

import pytest
import torch
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import httpx
from safetensors.torch import load_file, save_file

from pipeline.config import ModelConfig, ModelsConfig
from pipeline.models import checkpoint
from pipeline.models.checkpoint import folder_digest
from pipeline.models.errors import ModelLoadError, PairError
from pipeline.models.loading import load_model, load_pair, resolve_device
from tests.tiny_models import tiny_tokenizer, write_tiny_model

CPU = torch.device("cpu")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_tiny_model("qwen2_5_vl", tmp_path_factory.mktemp("loading") / "model")


@pytest.fixture
def folder(pristine, tmp_path):
    """A complete model folder of the test's own to damage."""
    return shutil.copytree(pristine, tmp_path / "model")


def load(folder, **kwargs):
    return load_model(ModelConfig(name=str(folder), **{"dtype": "float32", **kwargs}), CPU)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_complete_folder_loads_ready_to_decode(folder, dtype):
    model = load(folder, dtype=dtype)
    assert not model.model.training
    assert model.model.dtype is getattr(torch, dtype)
    assert model.model.config._attn_implementation == "sdpa"
    assert model.model_id == str(folder)
    assert model.revision == folder_digest(folder)
    assert model.eos_token_ids == {model.tokenizer.eos_token_id}


class TestRevision:
    def test_a_folders_revision_follows_its_content_and_not_its_path(self, folder, tmp_path):
        before = folder_digest(folder)
        assert folder_digest(shutil.copytree(folder, tmp_path / "copy")) == before
        weights = load_file(folder / "model.safetensors")
        weights["lm_head.weight"][0, 0] += 1
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        assert folder_digest(folder) != before

    def test_a_folder_can_be_pinned(self, folder):
        assert load(folder, revision=folder_digest(folder)).revision == folder_digest(folder)
        with pytest.raises(ModelLoadError, match=r"not the configured revision sha256:dead"):
            load(folder, revision="sha256:dead")

    def test_a_hub_branch_resolves_to_a_commit_before_anything_loads(self, pristine, monkeypatch):
        calls = []

        class Hub:
            def model_info(self, name, revision):
                calls.append(("info", name, revision))
                return type("Info", (), {"sha": COMMIT})

        def snapshot(name, revision, allow_patterns):
            assert not any(pattern in allow_patterns for pattern in ("*.bin", "*.py"))
            calls.append(("download", name, revision))
            return str(pristine)

        monkeypatch.setattr(checkpoint.huggingface_hub, "HfApi", Hub)
        monkeypatch.setattr(checkpoint.huggingface_hub, "snapshot_download", snapshot)
        model = load("some/model", revision="main")
        assert calls == [("info", "some/model", "main"), ("download", "some/model", COMMIT)]
        assert (model.model_id, model.revision) == ("some/model", COMMIT)
        calls.clear()
        load("some/model", revision=COMMIT)
        assert calls == [("download", "some/model", COMMIT)]

    @pytest.mark.parametrize("error", [OfflineModeIsEnabled, httpx.ConnectError])
    def test_an_unreachable_hub(self, monkeypatch, error):
        class Hub:
            def model_info(self, name, revision):
                raise error("offline")

        monkeypatch.setattr(checkpoint.huggingface_hub, "HfApi", Hub)
        with pytest.raises(ModelLoadError, match=r"some/model at revision main.*local folder"):
            load("some/model", revision="main")


class TestBrokenFolder:
    def test_missing(self, tmp_path):
        with pytest.raises(ModelLoadError, match="no such folder"):
            load(tmp_path / "nowhere")

    def test_not_a_model(self, tmp_path):
        with pytest.raises(ModelLoadError, match=r"no config\.json"):
            load(tmp_path)

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(ModelLoadError, match=r"no \*\.safetensors"):
            load(folder)

    def test_pickles_are_refused_and_not_read(self, folder):
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"never unpickled")
        with pytest.raises(ModelLoadError, match=r"pickles \(pytorch_model\.bin\)"):
            load(folder)

    def test_a_missing_shard(self, folder):
        index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelLoadError, match="model-00002-of-00002"):
            load(folder)

    def test_a_missing_weight_is_not_filled_at_random(self, folder):
        weights = load_file(folder / "model.safetensors")
        name = next(name for name in weights if "layers.1.mlp.down_proj" in name)
        del weights[name]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelLoadError, match=r"lacks 1 weights.*down_proj"):
            load(folder)

    def test_truncated_weights(self, folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ModelLoadError, match=r"files in .* are complete"):
            load(folder)

    def test_a_processor_file_that_is_no_json(self, folder):
        (folder / "processor_config.json").write_text("{")
        with pytest.raises(ModelLoadError, match="not valid JSON"):
            load(folder)

    def test_no_tokenizer(self, folder):
        """transformers itself would go on with an empty vocabulary."""
        (folder / "tokenizer.json").unlink()
        with pytest.raises(ModelLoadError, match=r"no tokenizer\.json"):
            load(folder)

    def test_no_chat_template(self, folder):
        (folder / "chat_template.jinja").unlink()
        with pytest.raises(ModelLoadError, match="no chat template"):
            load(folder)

    def test_a_family_that_is_not_supported(self, folder):
        edit_json(folder / "config.json", model_type="llama")
        with pytest.raises(ModelLoadError, match="supported are: llava_onevision, qwen2_5_vl"):
            load(folder)

    def test_quantised_weights_are_of_another_dtype_than_configured(self, folder):
        edit_json(folder / "config.json", quantization_config={"quant_method": "awq"})
        with pytest.raises(ModelLoadError, match=r"quantised \(awq\).*unquantised"):
            load(folder)

    @pytest.mark.parametrize(
        "file", ["config.json", "tokenizer_config.json", "processor_config.json"]
    )
    def test_code_from_the_checkpoint_is_refused(self, folder, file):
        edit_json(folder / file, auto_map={"AutoModel": "evil.Model"})
        (folder / "evil.py").write_text("raise SystemExit('was run')")
        with pytest.raises(ModelLoadError, match=f"{file} asks to run code"):
            load(folder)

    def test_no_end_token(self, folder):
        edit_json(folder / "generation_config.json", eos_token_id=None)
        edit_json(folder / "tokenizer_config.json", eos_token=None)
        with pytest.raises(ModelLoadError, match="eos_token_id"):
            load(folder)

    def test_sliding_attention_is_not_supported(self, folder):
        text = json.loads((folder / "config.json").read_text())["text_config"]
        text["layer_types"] = ["sliding_attention"] * text["num_hidden_layers"]
        edit_json(folder / "config.json", text_config=text)
        with pytest.raises(ModelLoadError, match="only full attention"):
            load(folder)


def test_a_device_that_is_not_there():
    with pytest.raises(ModelLoadError, match=r"models\.device 'cuda:99'"):
        resolve_device("cuda:99")


class TestPair:
    def load_pair(self, target, draft):
        name = [ModelConfig(name=str(folder), dtype="float32") for folder in (target, draft)]
        return load_pair(ModelsConfig(target=name[0], draft=name[1], device="cpu"))

    def test_no_draft(self, pristine):
        config = ModelConfig(name=str(pristine), dtype="float32")
        target, draft = load_pair(ModelsConfig(target=config, device="cpu"))
        assert target.model_id == str(pristine)
        assert draft is None

    def test_embeddings_padded_differently_are_one_vocabulary(self, pristine, tmp_path):
        other = write_tiny_model("qwen2_5_vl", tmp_path / "draft", vocab_padding=40)
        target, draft = self.load_pair(pristine, other)
        assert target.vocab_size == draft.vocab_size

    def test_families_can_be_mixed_if_they_share_the_vocabulary(self, pristine, tmp_path):
        other = write_tiny_model("llava_onevision", tmp_path / "draft")
        assert self.load_pair(pristine, other)[1].model_type == "llava_onevision"

    def test_a_token_that_differs_is_named(self, pristine, tmp_path):
        tokenizer = tiny_tokenizer()
        tokenizer.add_tokens(["zebra"])
        other = write_tiny_model("qwen2_5_vl", tmp_path / "draft", tokenizer=tokenizer)
        size = len(tokenizer) - 1
        with pytest.raises(PairError, match=f"'zebra' has id none in the target and {size}"):
            self.load_pair(pristine, other)

    def test_settings_that_change_greedy_captions_are_named_once(self, pristine, folder, caplog):
        """``generate`` would apply them: a caption then differs from ours, and nobody knows why."""
        edit_json(
            folder / "generation_config.json",
            do_sample=True,
            temperature=1e-6,
            repetition_penalty=1.05,
            no_repeat_ngram_size=3,
            suppress_tokens=[7, 8],
            min_length=0,
            num_beams=1,
        )
        self.load_pair(folder, pristine)
        (warning,) = caplog.messages
        assert str(folder) in warning
        assert "repetition_penalty=1.05, no_repeat_ngram_size=3, suppress_tokens=[7, 8]" in warning
        assert not any(name in warning for name in ("temperature", "min_length", "num_beams"))

    def test_the_drafts_settings_change_no_caption(self, pristine, folder, caplog):
        edit_json(folder / "generation_config.json", repetition_penalty=1.05)
        self.load_pair(pristine, folder)
        assert not caplog.messages

    def test_ends_that_differ(self, pristine, folder):
        edit_json(folder / "generation_config.json", eos_token_id=[2, 5])
        with pytest.raises(PairError, match=r"different tokens: \[2\] and \[2, 5\]"):
            self.load_pair(pristine, folder)
