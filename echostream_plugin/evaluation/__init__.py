"""Evaluation: the scoring ASR (whisper-base), quality and latency scores, SimulEval runs, timelines and tables."""
