"""Guards that a captioner takes a calibration of its own models only."""

import pytest

from pipeline.config import (
    InputConfig,
    ModelConfig,
    ModelsConfig,
    OutputConfig,
    PromptConfig,
    RunConfig,
    SpeculationConfig,
)
from pipeline.decoding.calibration import (
    PairIdentity,
    load_calibration,
    save_calibration,
)
from pipeline.models.errors import PairError
from pipeline.models.loading import load_pair
from pipeline.stages.caption import CaptionStage
from tests.calibration_files import write_calibration
from tests.tiny_models import write_tiny_pair


def test_a_calibration_of_other_models_is_refused(tmp_path):
    target, draft = write_tiny_pair("qwen2_5_vl", tmp_path)
    path = tmp_path / "pair.json"
    write_calibration(path)
    models = ModelsConfig(
        target=ModelConfig(name=str(target)), draft=ModelConfig(name=str(draft)), device="cpu"
    )
    config = RunConfig(
        input=InputConfig(uri="/videos"),
        output=OutputConfig(uri="/captions"),
        models=models,
        prompt=PromptConfig(text="What happens?"),
        speculation=SpeculationConfig(method="safe", calibration=str(path)),
    )
    with pytest.raises(PairError, match=r"pair\.json: .* run jobs/calibrate\.py"):
        CaptionStage.load(config)

    loaded_target, loaded_draft = load_pair(models)
    own = PairIdentity(
        target_revision=loaded_target.revision,
        draft_revision=loaded_draft.revision,
        vocab_size=loaded_target.vocab_size,
    )
    calibration, lexicon = load_calibration(path)
    made_for_it = calibration.model_copy(update={"pair": own})
    save_calibration(path, made_for_it, lexicon.repeat(own.vocab_size)[: own.vocab_size])
    CaptionStage.load(config)
