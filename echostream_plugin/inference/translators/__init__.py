"""The translators; importing this package registers each of them."""

from echostream_plugin.inference.translators import incremental, recompute, speechllm  # noqa: F401
from echostream_plugin.inference.translators.base import TRANSLATORS, Translator, Written

__all__ = ["TRANSLATORS", "Translator", "Written"]
