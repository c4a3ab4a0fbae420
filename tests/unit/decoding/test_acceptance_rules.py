"""Guards the lossless rule: the kept prefix is the target's own, whatever was drafted."""

import pytest
import torch

from pipeline.decoding.acceptance import RejectionCause, TokenKind, VerifiedBlock, accept_exact


@pytest.mark.parametrize(
    ("drafted", "choices", "num_accepted", "is_rejected"),
    [
        ([5, 6, 7], [5, 6, 7, 8], 3, False),
        ([5, 6, 7], [5, 6, 1, 8], 2, True),
        ([5, 6, 7], [1, 6, 7, 8], 0, True),
        ([5], [5, 9], 1, False),
        ([], [4], 0, False),
    ],
)
def test_exact_keeps_up_to_the_first_difference(drafted, choices, num_accepted, is_rejected):
    acceptance = accept_exact(VerifiedBlock(drafted, choices, torch.empty(0), None))
    assert acceptance.num_accepted == num_accepted
    assert acceptance.kinds == (TokenKind.EXACT,) * num_accepted
    assert acceptance.rejected_by is (RejectionCause.MISMATCH if is_rejected else None)
    assert acceptance.num_anchors == 0
