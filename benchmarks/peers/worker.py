"""The program that drives one peer: a command a line on stdin, a JSON answer a line on stdout. Knows no perdure.

`turn` is what the peer's own users do for a turn: read the history, then keep a prompt and its answer.
"""

import asyncio
import contextlib
import gc
import itertools
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from benchmarks.content import answer_to, prompt_of

__all__ = ["Peer", "serve", "serve_methods", "texts_of"]


class Peer(Protocol):
    """A method may also be a plain function; then many at once are many threads."""

    async def open(self, where: str) -> None:
        """`where`: an empty folder, or the address of an empty database."""
        ...

    async def plant(self, conversation: str, messages: int) -> None:
        """Puts them there beforehand, by whatever way is quick."""
        ...

    async def turn(self, conversation: str, prompt: str, answer: str) -> int:
        """How many messages of history were read."""
        ...

    async def texts(self, conversation: str) -> Sequence[str]:
        """Of all messages, in order."""
        ...

    async def close(self) -> None: ...


def texts_of(messages: int) -> list[str]:
    """What is planted: prompts and answers in turn."""
    return [
        text for number in range(messages // 2) for text in (prompt_of(-1 - number), answer_to(prompt_of(-1 - number)))
    ]


def serve(peer: Peer) -> None:
    """Until stdin is closed."""
    with asyncio.Runner() as runner:
        serve_methods(_Driven(peer, runner))


def serve_methods(driven: object) -> None:
    """A command names a method of `driven` and its arguments. What anything else prints goes to stderr."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            command = json.loads(line)
            try:
                answer = {"found": getattr(driven, command.pop("do"))(**command)}
            except Exception as error:  # noqa: BLE001 - the driver says it
                answer = {"error": f"{type(error).__name__}: {error}"[:500]}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


class _Driven:
    def __init__(self, peer: Peer, runner: asyncio.Runner) -> None:
        self._peer = peer
        self._runner = runner
        self._number = 0
        self._acknowledged: dict[str, list[str]] = {}
        self._failures: Counter[str] = Counter()

    def open(self, where: str) -> None:
        self._do(self._peer.open, where)

    def plant(self, conversation: str, messages: int) -> None:
        self._do(self._peer.plant, conversation, messages)

    def turns(self, conversation: str, count: int) -> float:
        """The median time of one, in seconds."""
        gc.collect()
        taken = []
        for _ in range(count):
            prompt = self._next()
            answer = answer_to(prompt)
            started = time.perf_counter()
            self._do(self._peer.turn, conversation, prompt, answer)
            taken.append(time.perf_counter() - started)
            self._acknowledged.setdefault(conversation, []).extend((prompt, answer))
        return statistics.median(taken)

    def at_once(self, conversations: list[str], turns: int) -> float:
        """Turns a second that were kept, of so many: one at a time in each conversation, all conversations at once."""
        failed_before = self._failures.total()
        gc.collect()
        prompts = {name: [self._next() for _ in range(turns // len(conversations))] for name in conversations}
        started = time.perf_counter()
        if asyncio.iscoroutinefunction(self._peer.turn):
            self._runner.run(self._as_tasks(prompts))
        else:
            with ThreadPoolExecutor(len(prompts)) as pool:
                list(pool.map(lambda name: self._one_by_one(name, prompts[name]), prompts))
        return (turns - self._failures.total() + failed_before) / (time.perf_counter() - started)

    def failures(self) -> dict[str, int]:
        """Turns that were refused while many came at once, by what was said."""
        return dict(self._failures)

    def verify(self) -> int:
        """How many messages were acknowledged: each prompt is there, and its answer right behind it.

        Raises:
            AssertionError: One is not.
        """
        for conversation, wanted in self._acknowledged.items():
            found = list(self._do(self._peer.texts, conversation))
            pairs = set(itertools.pairwise(found))
            lost = [pair for pair in zip(wanted[::2], wanted[1::2], strict=True) if pair not in pairs]
            if lost:
                raise AssertionError(f"{len(lost)} of {len(wanted) // 2} acknowledged turns of {conversation!r} lost")
        return sum(map(len, self._acknowledged.values()))

    def close(self) -> None:
        self._do(self._peer.close)

    async def _as_tasks(self, prompts: dict[str, list[str]]) -> None:
        async def one_by_one(name: str) -> None:
            for prompt in prompts[name]:
                answer = answer_to(prompt)
                try:
                    await self._peer.turn(name, prompt, answer)
                except Exception as error:  # noqa: BLE001 - a figure too
                    self._failures[_first_line(error)] += 1
                else:
                    self._acknowledged.setdefault(name, []).extend((prompt, answer))

        await asyncio.gather(*map(one_by_one, prompts))

    def _one_by_one(self, name: str, prompts: list[str]) -> None:
        for prompt in prompts:
            answer = answer_to(prompt)
            try:
                self._peer.turn(name, prompt, answer)
            except Exception as error:  # noqa: BLE001 - a figure too
                self._failures[_first_line(error)] += 1
            else:
                self._acknowledged.setdefault(name, []).extend((prompt, answer))

    def _next(self) -> str:
        self._number += 1
        return prompt_of(self._number)

    def _do(self, method: Callable[..., Any], *arguments: Any) -> Any:
        if asyncio.iscoroutinefunction(method):
            return self._runner.run(method(*arguments))
        return method(*arguments)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:100]
