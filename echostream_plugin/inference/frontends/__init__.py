"""The front ends; importing this package registers each of them."""

from echostream_plugin.inference.frontends import kaldi, whisper  # noqa: F401
from echostream_plugin.inference.frontends.base import FRONTENDS, FeatureExtractor

__all__ = ["FRONTENDS", "FeatureExtractor"]
