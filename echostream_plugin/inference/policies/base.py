"""When to write: what every read/write policy offers, and the policies by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from echostream_plugin.constants import FRAME_MS

if TYPE_CHECKING:
    from echostream_plugin.inference.options import SessionOptions  # which is made from the policies' options

POLICIES = {}  # name -> class; see register_policy


def register_policy(policy):
    """Class decorator: `policy` is found by its name, in options, flags and bundles. To add one, write such a class in
    a file of this folder and import it in `policies/__init__.py`."""
    POLICIES[policy.name] = policy
    return policy


@dataclass(frozen=True, eq=False)
class PolicyState:
    """What a policy decides by; all of it is of the present sentence.

    asr_count, st_count: tokens of the two CTC heads after collapse; written: target tokens that were committed; frames:
    encoder frames of 40 ms so far, those of an unfinished segment included; ended: no more source will come;
    source_text, target_text: transcript and translation so far; attention(n): the cross-attention weights of the next n
    target tokens as they would be written now, [u, layers, heads, S] over the S source frames, u below n where the
    translation would end before: computed where it is called, at the cost of writing those tokens."""

    asr_count: int
    st_count: int
    written: int
    frames: int
    ended: bool = False
    source_text: str = ""
    target_text: str = ""
    attention: Callable[[int], Tensor] | None = None

    @property
    def source_ms(self) -> int:
        """The source so far in ms, as encoder frames count it."""
        return self.frames * FRAME_MS


class Policy(ABC):
    """Decides for one sentence how many tokens may be written; a new object for each.

    Class attributes:
        name: the value of the session option `policy`.
        Options: a frozen dataclass of its `config.option` fields, which become session options and flags; None where
            it has none. Policies share a name only where they share the dataclass.
        SAVED: the attributes that it remembers from decision to decision, for snapshots.
    """

    name: ClassVar[str]
    Options: ClassVar[type | None] = None
    SAVED: ClassVar[tuple] = ()

    def __init__(self, options: "SessionOptions"):
        self.options = options

    @abstractmethod
    def decide(self, state: PolicyState) -> int:
        """How many tokens may be added now, while the source goes on; 0 is READ."""

    def rest(self, state: PolicyState) -> int:
        """How many tokens the end of the source may still add."""
        return self.options.max_tokens

    def wrote(self, state: PolicyState) -> None:
        """Tokens were written after `decide(state)` (with decoding='recompute': or could have been)."""
        return None

    def up_to(self, length: int, state: PolicyState) -> int:
        """How many tokens to add until `length` are written. In whole words one token more is asked for, the one that
        shows that the word before it is complete (`complete_words` takes it away again)."""
        return max(0, length + int(self.options.writes_whole_words) - state.written)


def complete_words(starts_word: list) -> int:
    """How many of the new tokens belong to complete words: those before the last token that starts a word.

    starts_word: one bool for each new token."""
    for position in range(len(starts_word) - 1, -1, -1):
        if starts_word[position]:
            return position
    return 0
