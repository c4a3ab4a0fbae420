"""One answer in the making: heard by the engine's thread, waited for in the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import DecodedRow, Row
from pipeline.decoding.text_stream import StopStrings, TextStream
from pipeline.serving.generation import Committed, Finished, GenerationOptions

Event = Committed | Finished | Exception
"""What happens to an answer; an exception is its end, as Finished is."""


class Answer:
    """A request that was handed over; implements RowListener for the engine's thread.

    ``events`` are for the event loop that made the answer, and for it alone.
    """

    def __init__(
        self,
        request: CaptionRequest,
        options: GenerationOptions,
        decode_text: Callable[[Sequence[int]], str],
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.request = request
        self.options = options
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._decode_text = decode_text
        self._pieces = TextStream(decode_text)
        self._stops = StopStrings(options.stop)
        self._deadline_s = deadline_s
        self._clock = clock
        self._asked_s = clock()
        self._started_s: float | None = None
        self._relaxed_share: float | None = None
        self._first_token_s: float | None = None
        self._is_cancelled = False
        self._num_known = 0
        self._num_told = 0
        self._streamed = ""
        self._sent = ""

    def cancel(self) -> None:
        """Nobody waits any more: the row ends after its round, or is never begun."""
        self._is_cancelled = True

    @property
    def is_gone(self) -> bool:
        """Whether it was cancelled or its time is up."""
        return self._is_cancelled or self._clock() > self._deadline_s

    def started(self, relaxed_share: float | None) -> None:
        """The engine has taken it, as there is a slot; ``relaxed_share`` is the lambda in force."""
        self._started_s = self._clock()
        self._relaxed_share = relaxed_share

    def committed(self, row: Row) -> bool:
        """Pass new tokens on; see RowListener."""
        if self._first_token_s is None:
            self._first_token_s = self._clock()
            self._num_known = row.num_known
        pieces = self._pieces.pieces(row.token_ids[self._num_told :])
        decisions = row.decisions[self._num_told :]
        self._num_told = len(row.token_ids)
        added = "".join(pieces)
        self._streamed += added
        text = self._stops.add(added)
        self._sent += text
        tokens = tuple(replace(token, text=piece) for token, piece in zip(decisions, pieces))
        self._tell(Committed(text, tokens, self._relaxed_share))
        return not (self._stops.has_stopped or self.is_gone)

    def finished(self, row: DecodedRow) -> None:
        """Its row has ended."""
        if not self._stops.has_stopped:
            # What no token completed: half a character at the end of a text that was cut.
            left = self._decode_text(row.token_ids)[len(self._streamed) :]
            rest = self._stops.add(left) + self._stops.end()
            if rest:
                self._sent += rest
                self._tell(Committed(rest, ()))
        now = self._clock()
        started_s = now if self._started_s is None else self._started_s
        first_s = now if self._first_token_s is None else self._first_token_s
        self._tell(
            Finished(
                text=self._sent,
                finish_reason=row.finish_reason,
                stats=row.stats,
                num_cached_tokens=self._num_known,
                queue_s=started_s - self._asked_s,
                first_token_s=first_s - self._asked_s,
            )
        )

    def failed(self, error: Exception) -> None:
        """It has no end but this."""
        self._tell(error)

    def _tell(self, event: Event) -> None:
        try:
            self._loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:  # the loop is closed: nobody can be waiting
            self._is_cancelled = True
