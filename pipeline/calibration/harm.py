"""Which mismatches matter: those after which a caption states other facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.calibration.mismatches import Mismatch
from pipeline.calibration.reading import TargetCaption
from pipeline.decoding.facts import FactExtractor, facts_kept

DecodeText = Callable[[Sequence[int]], str]


def harmful(
    captions: Sequence[TargetCaption],
    mismatches: Sequence[Mismatch],
    endings: Sequence[Sequence[int]],
    extractor: FactExtractor,
    decode_text: DecodeText,
) -> npt.NDArray[np.bool_]:
    """Of each mismatch whether the caption that it leads to (``endings``) has not the same facts.

    Some are not the token's fault: the target may tell the rest otherwise, with an error of its
    own. No score can see those, so 99 % recall may not be had at any price.
    """
    own = [extractor(caption.token_ids, decode_text(caption.token_ids)) for caption in captions]
    return np.array(
        [
            facts_kept(extractor(ending, decode_text(ending)), own[mismatch.caption]) < 1
            for mismatch, ending in zip(mismatches, endings, strict=True)
        ],
        dtype=bool,
    )
