"""SpeechLLM-XL (Jia et al., arXiv 2410.03752): a decoder-only Transformer that reads chunks of encoder frames and
writes the text of each behind it, in one sequence."""

from echostream_plugin.decoders.speechllm.config import SpeechLLMConfig, SpeechLLMModelConfig
from echostream_plugin.decoders.speechllm.decoder import SpeechLLMDecoder, SpeechLLMState

__all__ = ["SpeechLLMConfig", "SpeechLLMDecoder", "SpeechLLMModelConfig", "SpeechLLMState"]
