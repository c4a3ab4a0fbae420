"""A large prefix, listed by many at a time: it is cut into ranges of keys, listed side by side.

S3 gives a thousand keys a request, and where the next thousand starts only with them, so one stream
is as fast as its round trips. Where to cut is a guess that no result depends on: any cuts give each
object once. They come from the folders of a first request and, where those don't cover all (a flat
bucket, thousands of folders), from jumps over all the keys that begin alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice, pairwise

from pipeline.records import VideoObject
from pipeline.storage import Storage

NUM_LISTERS = 16  # parsing the answers takes one core long before S3 minds
PAGE_KEYS = 1000
HEAD_PAGES = 10  # finding cuts costs up to as many round trips as this takes, and some more
MAX_RANGES = 2 * NUM_LISTERS  # each costs a page that is used in part
MAX_JUMPS = 64
MAX_DEPTH = 8  # of folders with nothing but one folder in them
_LAST = "\U0010ffff"  # no key that goes on sorts after it


def list_in_any_order(storage: Storage, uri: str) -> Iterator[VideoObject]:
    """Objects below a folder, each once; a small one costs what ``Storage.list`` does.

    At most ``NUM_LISTERS`` pages are in memory. Raises what ``Storage.list`` does.
    """
    start = ""
    for index, found in enumerate(storage.list(uri)):
        yield found
        if index == HEAD_PAGES * PAGE_KEYS:
            start = found.uri
            break
    else:
        return
    cuts = [cut for cut in split_points(storage, uri) if cut > start]
    yield from _side_by_side(
        [storage.list(uri, after, up_to) for after, up_to in pairwise((start, *cuts, ""))]
    )


def split_points(storage: Storage, uri: str) -> list[str]:
    """Names that cut a folder's keys into some ranges, in order; they need not exist."""
    folder = uri.rstrip("/")
    folders = list(storage.folders(folder, max_requests=1))
    for _ in range(MAX_DEPTH):
        if len(folders) != 1:
            break
        folder = folders[0]
        folders = list(storage.folders(folder, max_requests=1))
    cuts = {f"{name}/" for name in folders}
    if not cuts or _first(storage, folder, max(cuts) + _LAST):
        cuts.update(_stems(storage, folder))
    ordered = sorted(cuts)
    return ordered[:: max(1, -(-len(ordered) // MAX_RANGES))]


def _stems(storage: Storage, folder: str) -> Iterator[str]:
    """What keys begin with, as short as gives enough ranges."""
    stems = deque([f"{folder}/"])
    num_jumps = 0
    while stems and len(stems) < NUM_LISTERS and num_jumps < MAX_JUMPS:
        stem = after = stems.popleft()
        while num_jumps < MAX_JUMPS:
            num_jumps += 1
            key = _first(storage, folder, after)
            if key is None or not key.startswith(stem):
                break
            stems.append(key[: len(stem) + 1])
            after = stems[-1] + _LAST
    yield from stems


def _first(storage: Storage, folder: str, after: str) -> str | None:
    """The first object after a name, if there is one."""
    found = next(storage.list(folder, after, page_size=1), None)
    return found.uri if found else None


def _side_by_side(ranges: Sequence[Iterator[VideoObject]]) -> Iterator[VideoObject]:
    """Objects of all ranges, page by page as they come; a range has one page under way at most."""
    waiting = iter(ranges)
    with ThreadPoolExecutor(NUM_LISTERS) as pool:
        pages = {pool.submit(_page, each): each for each in islice(waiting, NUM_LISTERS)}
        while pages:
            for page in wait(pages, return_when=FIRST_COMPLETED).done:
                this = pages.pop(page)
                following = this if page.result() else next(waiting, None)
                if following is not None:
                    pages[pool.submit(_page, following)] = following
                yield from page.result()


def _page(objects: Iterator[VideoObject]) -> list[VideoObject]:
    return list(islice(objects, PAGE_KEYS))
