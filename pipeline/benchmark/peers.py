"""Other engines on the same weights: transformers' ``generate``, plain and with an assistant.

They prepare their inputs as transformers documents it, and go their own way from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from pipeline.benchmark.clips import BenchmarkClip
from pipeline.benchmark.runs import ClipRun
from pipeline.config import GenerationConfig, PromptConfig
from pipeline.models.transformers_model import TransformersVideoLM


@dataclass(frozen=True, slots=True, eq=False)
class GenerateContestant:
    """``generate`` of the target; with ``assistant``, its assisted generation by that draft.

    Prompts of a batch must be of one length, so that nothing is padded; ValueError otherwise, and
    whatever transformers raises. A batch runs until its last row ends: there are no others to join.
    """

    target: TransformersVideoLM
    assistant: TransformersVideoLM | None
    prompt: PromptConfig
    generation: GenerationConfig
    batch: int

    def caption(self, clips: Sequence[BenchmarkClip], first: int) -> list[ClipRun]:
        """Caption ``batch`` clips at a time; see Contestant."""
        runs: list[ClipRun] = []
        for start in range(0, len(clips), self.batch):
            runs += self._generate(clips[start : start + self.batch], first + start)
        return runs

    def _generate(self, clips: Sequence[BenchmarkClip], first: int) -> list[ClipRun]:
        """The prefill ends with the target's first forward; an assistant drafts in it too."""
        inputs = generate_inputs(self.target, self.prompt, clips)
        ends: list[float] = []
        hook = self.target.model.register_forward_hook(lambda *_: ends.append(perf_counter()))
        options = self._options()
        started = perf_counter()
        try:
            with torch.inference_mode():
                output = self.target.model.generate(
                    **inputs,
                    **options,
                    do_sample=False,
                    max_new_tokens=self.generation.max_tokens,
                    eos_token_id=sorted(self.target.eos_token_ids),
                    pad_token_id=self._pad_token_id,
                )
            wall_s = perf_counter() - started
        finally:
            hook.remove()
        prefill_s = ends[0] - started
        captions = output[:, inputs["input_ids"].shape[1] :].tolist()
        share = 1 / len(clips)
        return [
            ClipRun(
                clip=first + place,
                text=self.target.decode_text(token_ids),
                output_tokens=self._length(token_ids),
                wall_s=wall_s * share,
                prefill_s=prefill_s * share,
                decode_s=(wall_s - prefill_s) * share,
            )
            for place, token_ids in enumerate(captions)
        ]

    def _options(self) -> dict[str, Any]:
        """Padding of the embeddings is no token, so it is suppressed where there is any."""
        options: dict[str, Any] = {}
        if self.assistant is not None:
            options["assistant_model"] = self.assistant.model
        num_embeddings = self.target.model.config.text_config.vocab_size
        if padding := list(range(self.target.vocab_size, num_embeddings)):
            options["suppress_tokens"] = padding
        return options

    @property
    def _pad_token_id(self) -> int:
        pad = self.target.tokenizer.pad_token_id
        return min(self.target.eos_token_ids) if pad is None else int(pad)

    def _length(self, token_ids: Sequence[int]) -> int:
        """Tokens up to and with the end; what follows is padding."""
        for place, token in enumerate(token_ids):
            if token in self.target.eos_token_ids:
                return place + 1
        return len(token_ids)


def generate_inputs(
    target: TransformersVideoLM, prompt: PromptConfig, clips: Sequence[BenchmarkClip]
) -> dict[str, Any]:
    """What ``generate`` takes for a batch of clips. ValueError if prompts differ in length."""
    lengths = {clip.request.target.num_tokens for clip in clips}
    if len(lengths) > 1:
        raise ValueError(f"prompts of {sorted(lengths)} tokens do not fit one batch unpadded")
    question = [{"type": "video"}, {"type": "text", "text": prompt.text}]
    messages = [{"role": "user", "content": question}]
    if prompt.system is not None:
        system = [{"type": "text", "text": prompt.system}]
        messages.insert(0, {"role": "system", "content": system})
    processor = target.processor
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    batch = processor(
        text=[text] * len(clips),
        videos=[clip.clip.frames for clip in clips],
        video_metadata=[_metadata(clip) for clip in clips],
        do_sample_frames=False,
        do_resize=False,
        return_tensors="pt",
        **target.processor_options,
    )
    return dict(batch.to(target.device))


def _metadata(clip: BenchmarkClip) -> dict[str, Any]:
    times = clip.clip.timestamps_s
    interval_s = float(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1.0
    return {
        "total_num_frames": len(times),
        "fps": 1 / interval_s,
        "frames_indices": list(range(len(times))),
    }
