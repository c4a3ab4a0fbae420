"""Guards the wire format: a record arrives exactly as it left, frames bit by bit."""

import numpy as np

from actors import wire
from pipeline.records import ShadowComparison, frames_digest
from tests.make_records import DECISIONS, caption_record, clip_spec, decoded_clip, failure


def test_records_of_all_kinds_round_trip_in_order():
    records = [failure(), caption_record(), failure(clip_spec("b.mp4"))]
    failed, captioned, other = wire.unpack(wire.pack(records))
    assert failed == records[0]
    assert captioned.caption == records[1].caption
    assert captioned.spec == records[1].spec
    assert other == records[2]


def test_a_loose_caption_keeps_its_shadow_its_lambda_and_its_tokens():
    shadow = ShadowComparison(equal=False, output_tokens=8)
    sent = caption_record(shadow=shadow, relaxed_share=0.7, decisions=DECISIONS)
    (received,) = wire.unpack(wire.pack([sent]))
    assert received.caption == sent.caption
    assert received.caption.decisions[1].anchor_rank == 0.5


def test_frames_of_unequal_shapes_round_trip():
    clips = [decoded_clip(num_frames=n, seed=n) for n in (1, 5, 3)]
    for sent, received in zip(clips, wire.unpack(wire.pack(clips)), strict=True):
        np.testing.assert_array_equal(sent.frames, received.frames)
        assert frames_digest(received.frames, received.timestamps_s) == sent.frames_digest


def test_table_names_kind_and_clip_for_people():
    table = wire.pack([decoded_clip(), caption_record()])
    assert table.column("kind").to_pylist() == ["DecodedClip", "CaptionRecord"]
    assert table.column("clip_id").to_pylist() == [clip_spec().clip_id] * 2


def test_nothing_packs_to_an_empty_table_of_the_schema():
    assert wire.pack([]).schema == wire.SCHEMA
