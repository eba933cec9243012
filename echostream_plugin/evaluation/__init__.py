"""Evaluation: the speech judge (whisper-base), quality and latency scores, SimulEval runs, timelines and tables."""
