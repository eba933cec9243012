"""SpeechLLM-XL under fairseq: `--arch speechllm_xl`, `--task speech_to_text_chunks`, `--criterion speechllm_ctc`."""

from echostream_plugin.fairseq_ext.speechllm import criterion, model, task  # noqa: F401
