"""Write a corpus: real video files of known content, a few damaged ones, and the facts of all.

`facts.jsonl` has one line a file. A good file's line has `file`, `codec`, `scene` (all properties),
`caption` (one correct caption) and `facts` (triples, see `sample_world.facts`); a damaged file's
line has `file` and `damage` (its kind).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.sample_world.damage import DAMAGES
from pipeline.sample_world.encoding import CODECS, encode, sample_timing
from pipeline.sample_world.facts import Fact, Facts, scene_facts
from pipeline.sample_world.grammar import write_caption
from pipeline.sample_world.render import render
from pipeline.sample_world.scene import sample_scene

FACTS_FILE = "facts.jsonl"
_FIRST_SCENE_SEED = 10_000_000
"""Scenes of corpora; far from the seeds that the reference pair is trained and measured on."""
_SEEDS_PER_CORPUS = 100_000


@dataclass(frozen=True, slots=True)
class CorpusPlan:
    """What to write. At most 50,000 good and 50,000 damaged files; codecs take turns."""

    num_videos: int
    num_damaged: int = 0
    seed: int = 0
    codecs: tuple[str, ...] = tuple(CODECS)

    def __post_init__(self) -> None:
        limit = _SEEDS_PER_CORPUS // 2
        if not (0 <= self.num_videos <= limit and 0 <= self.num_damaged <= limit):
            raise ValueError(f"a corpus has 0 to {limit} good and damaged files each")
        unknown = set(self.codecs) - set(CODECS)
        if unknown or not self.codecs:
            raise ValueError(f"codecs must be some of {', '.join(CODECS)}, not {self.codecs}")


def write_corpus(folder: Path, plan: CorpusPlan) -> Iterator[str]:
    """Write the corpus into `folder`, yielding each file's name as soon as it is there.

    The same plan writes the same bytes (with the same library versions). Files that are already
    there are overwritten; `facts.jsonl` comes last.
    """
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, object]] = []
    first_seed = _FIRST_SCENE_SEED + plan.seed * _SEEDS_PER_CORPUS
    for index in range(plan.num_videos):
        lines.append(_write_video(videos, index, first_seed + index, plan.codecs))
        yield str(lines[-1]["file"])
    kinds = list(DAMAGES)
    for index in range(plan.num_damaged):
        kind = kinds[index % len(kinds)]
        name = f"damaged-{index:04d}-{kind}.mp4"
        DAMAGES[kind](videos / name, first_seed + _SEEDS_PER_CORPUS // 2 + index)
        lines.append({"file": name, "damage": kind})
        yield name
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / FACTS_FILE).write_text(text, encoding="utf-8")


def _write_video(
    videos: Path, index: int, scene_seed: int, codecs: Sequence[str]
) -> dict[str, object]:
    scene = sample_scene(scene_seed)
    rng = random.Random(scene_seed)
    codec = CODECS[codecs[index % len(codecs)]]
    name = f"clip-{index:05d}{codec.suffix}"
    encode(render(scene), videos / name, codec, sample_timing(rng))
    return {
        "file": name,
        "codec": codec.name,
        "scene": asdict(scene),
        "caption": write_caption(scene, rng).text,
        "facts": sorted(scene_facts(scene)),
    }


def read_facts(folder: Path) -> dict[str, Facts]:
    """The true facts of every good file of a corpus, by file name."""
    with (folder / FACTS_FILE).open(encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines]
    return {
        entry["file"]: frozenset(Fact(*fact) for fact in entry["facts"])
        for entry in entries
        if "facts" in entry
    }
