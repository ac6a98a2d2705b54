"""The blocks of everything that runs, and what contexts have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from cold_backend.contract import BLOCK_TOKENS, Reader, StepResult, blocks_for
from cold_backend.engine.block_pool import BlockPool
from cold_backend.requests.context import Context, sources_of
from cold_backend.requests.hypothesis import Hypothesis
from cold_backend.requests.request import GenerationRequest
from cold_backend.requests.sequence import Sequence
from cold_backend.telemetry.load import Usage


@dataclass(slots=True)
class _Claim:
    """What a sequence has: contexts with blocks, and blocks promised to it."""

    contexts: list[Context]
    promised: Counter[Reader] = field(default_factory=Counter)
    is_sound: bool = True


class Memory:
    """Gives contexts their blocks, in the pools of the language models that run them.

    A sequence is admitted if all the blocks that it may ever need are there, those that it shares
    with others not counted twice.

    Args:
        reuse: whether contexts share blocks that hold the same.
    """

    def __init__(self, *, reuse: bool) -> None:
        self._reuse = reuse
        self._pools: dict[Reader, BlockPool] = {}
        self._claims: dict[Sequence, _Claim] = {}
        self._reused_tokens = 0

    @property
    def is_open(self) -> bool:
        """Whether it is known how many blocks there are."""
        return bool(self._pools)

    def open(self, result: StepResult) -> None:
        """Learns from a step how many blocks the models have."""
        pool, base_blocks = BlockPool(int(result.expert_blocks[0])), int(result.base_blocks[0])
        self._pools = {
            Reader.EXPERT: pool,
            Reader.BASE: BlockPool(base_blocks) if base_blocks else pool,
        }

    def needs(self, request: GenerationRequest) -> tuple[int, ...]:
        """Blocks of each pool that a request may need, if it shares none; () before `open`."""
        needed: Counter[BlockPool] = Counter()
        for source in sources_of(request) if self.is_open else ():
            needed[self._pools[source.reader]] += _needed(request, source.prompt)
        return tuple(needed[pool] for pool in self._distinct())

    @property
    def rooms(self) -> tuple[int, ...]:
        """Blocks of each pool that can still be promised."""
        return tuple(pool.room for pool in self._distinct())

    @property
    def sizes(self) -> tuple[int, ...]:
        """Blocks of each pool."""
        return tuple(pool.blocks for pool in self._distinct())

    @property
    def usage(self) -> Usage:
        """How the blocks are used; may be asked from any thread."""
        pools = self._distinct()
        return Usage(
            blocks=sum(pool.blocks for pool in pools),
            held=sum(pool.held for pool in pools),
            kept=sum(pool.kept for pool in pools),
            evictions=sum(pool.evictions for pool in pools),
            reused_tokens=self._reused_tokens,
        )

    def admit(self, sequence: Sequence, contexts: tuple[Context, ...]) -> bool:
        """Promises a sequence its blocks, if there is room, and gives it those that it shares.

        Mutates: the contexts, which then have what others had computed.
        """
        needed = {one: _needed(sequence.request, one.prompt) for one in contexts}
        shared = {context: [*self._find(context)] for context in contexts}
        missing: Counter[BlockPool] = Counter()
        for context, blocks in shared.items():
            pool = self._pools[context.reader]
            missing[pool] += needed[context] - sum(map(pool.is_held, blocks))
        if any(count > pool.room for pool, count in missing.items()):
            return False
        claim = self._claims[sequence] = _Claim([*contexts])
        for context in contexts:
            self._promise(claim, context.reader, needed[context])
            self._share(claim, context, shared[context])
        for context in contexts:
            self._copy_end(claim, context)
        _count_cached(sequence.answer, contexts)
        return True

    def reuse(self, sequence: Sequence, hypothesis: Hypothesis) -> None:
        """Gives contexts what others have computed of the prompt's rest by now.

        Mutates: the contexts, and what is known of the hypothesis.
        """
        for context in hypothesis.contexts:
            self._share(self._claims[sequence], context, [*self._find(context)])
        _count_cached(hypothesis, hypothesis.contexts)

    def next_keys(self, hypothesis: Hypothesis, lengths: Iterable[int]) -> Iterator[bytes]:
        """Keys of the blocks that the next tokens of contexts are in."""
        for context, length in zip(hypothesis.contexts, lengths, strict=True):
            number, tokens = context.fed // BLOCK_TOKENS, hypothesis.tokens_of(context)
            is_whole = (number + 1) * BLOCK_TOKENS <= len(tokens)
            if self._reuse and length and is_whole:
                yield context.key(number, tokens)

    def filled_keys(self, hypothesis: Hypothesis, lengths: Iterable[int]) -> Iterator[bytes]:
        """Keys of the blocks that become full by so many tokens of each context."""
        for context, length in zip(hypothesis.contexts, lengths, strict=True):
            tokens = hypothesis.tokens_of(context)
            for number in _filled(context.fed, length) if self._reuse else ():
                yield context.key(number, tokens)

    def grow(self, sequence: Sequence, context: Context, length: int) -> None:
        """Gives a context the blocks for its next tokens. Mutates: the context."""
        for _ in range(len(context.blocks), blocks_for(context.fed + length)):
            context.blocks.append(self._take(self._claims[sequence], context.reader))

    def fed(self, hypothesis: Hypothesis, context: Context, length: int) -> None:
        """Says that a context's next tokens are in its blocks. Mutates: the context."""
        if length:
            self._end_copy(context)
        if self._reuse:
            pool = self._pools[context.reader]
            for number in _filled(context.fed, length):
                key = context.key(number, hypothesis.tokens_of(context))
                pool.keep(context.blocks[number], key)
        context.fed += length

    def branch(self, sequence: Sequence) -> None:
        """Has the contexts of a sequence's hypotheses take the place of those that they continue.

        They share full blocks. Of the last one each has its own: the first that goes on from it
        keeps it, the others get copies.

        Mutates: the contexts.
        """
        claim = self._claims[sequence]
        parents = claim.contexts
        claim.contexts = [c for one in sequence.hypotheses for c in one.contexts]
        for context in claim.contexts:
            self._pools[context.reader].hold(context.blocks)
        self._give_back(claim, parents)
        kept: set[tuple[Reader, int]] = set()
        for context in claim.contexts:
            last = context.reader, context.blocks[-1]
            if context.fed % BLOCK_TOKENS and last in kept:
                context.copied_from = context.blocks.pop()
                context.blocks.append(self._take(claim, context.reader))
            kept.add(last)

    def forget(self, sequence: Sequence) -> None:
        """Has nobody else find what a sequence has: it led to no numbers."""
        claim = self._claims[sequence]
        claim.is_sound = False
        for context in claim.contexts:
            self._pools[context.reader].forget(context.blocks)

    def release(self, sequence: Sequence) -> None:
        """Takes back all that a sequence has."""
        claim = self._claims.pop(sequence)
        if self._reuse and claim.is_sound:
            for one in sequence.hypotheses:
                for context in one.contexts:
                    self._keep_end(context, one.tokens_of(context))
        self._give_back(claim, claim.contexts)
        for reader, count in claim.promised.items():
            self._pools[reader].promise(-count)

    def _distinct(self) -> list[BlockPool]:
        return [*dict.fromkeys(self._pools.values())]

    def _find(self, context: Context) -> Iterator[int]:
        """Full blocks that hold what comes next in a context, all but its prompt's last token."""
        pool, prompt = self._pools[context.reader], context.prompt
        whole = (len(prompt) - 1) // BLOCK_TOKENS if self._reuse else 0
        for number in range(context.fed // BLOCK_TOKENS, whole):
            block = pool.find(context.key(number, prompt))
            if block is None:
                return
            yield block

    def _share(self, claim: _Claim, context: Context, blocks: list[int]) -> None:
        """Gives a context full blocks, in place of one that it has begun itself."""
        if not blocks:
            return
        pool = self._pools[context.reader]
        pool.hold(blocks)
        self._end_copy(context)
        number = context.fed // BLOCK_TOKENS
        own = pool.release(context.blocks[number:])
        self._promise(claim, context.reader, own - len(blocks))
        context.blocks[number:] = blocks
        self._reuse_up_to(context, len(context.blocks) * BLOCK_TOKENS)

    def _copy_end(self, claim: _Claim, context: Context) -> None:
        """Has a context's next block begin as the last one of a sequence that has ended."""
        pool, prompt = self._pools[context.reader], context.prompt
        longest = min(len(prompt) - 1, context.fed + BLOCK_TOKENS - 1) if self._reuse else 0
        for end in range(longest, context.fed, -1):
            block = pool.find(context.end_key(end, prompt))
            if block is not None:
                # To hold what nobody holds takes room that is promised to nobody.
                if pool.room or pool.is_held(block):
                    pool.hold([block])
                    context.copied_from = block
                    context.blocks.append(self._take(claim, context.reader))
                    self._reuse_up_to(context, end)
                return

    def _keep_end(self, context: Context, tokens: Tokens[int]) -> None:
        """Has others find a context's last block, if it is not full."""
        if context.fed % BLOCK_TOKENS and context.copied_from is None:
            block = context.blocks[context.fed // BLOCK_TOKENS]
            self._pools[context.reader].keep(block, context.end_key(context.fed, tokens))

    def _reuse_up_to(self, context: Context, end: int) -> None:
        self._reused_tokens += end - context.fed
        context.reused += end - context.fed
        context.fed = end

    def _end_copy(self, context: Context) -> None:
        if context.copied_from is not None:
            self._pools[context.reader].release([context.copied_from])
            context.copied_from = None

    def _promise(self, claim: _Claim, reader: Reader, count: int) -> None:
        claim.promised[reader] += count
        self._pools[reader].promise(count)

    def _take(self, claim: _Claim, reader: Reader) -> int:
        claim.promised[reader] -= 1
        return self._pools[reader].take()

    def _give_back(self, claim: _Claim, contexts: Iterable[Context]) -> None:
        """Blocks that nobody has any more are promised to the sequence again."""
        for context in contexts:
            self._end_copy(context)
            own = self._pools[context.reader].release(context.blocks)
            self._promise(claim, context.reader, own)


def _count_cached(hypothesis: Hypothesis, contexts: Iterable[Context]) -> None:
    prompt = hypothesis.request.prompt
    hypothesis.cached_tokens = min(one.reused for one in contexts if one.prompt is prompt)


def _needed(request: GenerationRequest, prompt: Tokens[int]) -> int:
    """Blocks of contexts with a prompt: what hypotheses share of it once, the rest for each."""
    whole = len(prompt) // BLOCK_TOKENS
    fed = len(prompt) + request.max_tokens - 1  # the last token is fed to nobody
    return whole + request.width * (blocks_for(fed) - whole)


def _filled(fed: int, length: int) -> range:
    """Numbers of the blocks that become full by so many tokens."""
    return range(fed // BLOCK_TOKENS, (fed + length) // BLOCK_TOKENS)
