"""What a second of speech costs, here and elsewhere; run by scripts/benchmark.py."""
