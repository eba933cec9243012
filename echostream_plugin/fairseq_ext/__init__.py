"""The only folder that imports fairseq: importing it registers model, task and criterion under StreamSpeech's names."""

from echostream_plugin.fairseq_ext.logs import root_logger_kept

with root_logger_kept():
    from echostream_plugin.fairseq_ext import criterion, model, scaled_adam, speechllm, task  # noqa: F401
    from echostream_plugin.fairseq_ext.launch import explain_plugin
    from echostream_plugin.fairseq_ext.unpickling import guard_fairseq

guard_fairseq()
explain_plugin()
