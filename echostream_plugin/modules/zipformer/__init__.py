"""Zipformer (Yao et al., arXiv 2310.11230, ICLR 2024), streaming; parameter names are those of icefall's recipe.

Frames of 20 ms go through stacks that work at 50, 25, 12.5, 6.25, 12.5 and 25 Hz. Shapes in all files: B streams, T
frames of a stack's own rate, C channels, N consecutive chunks of S frames, L frames of left context, M memory vectors,
H heads. See `stacks.Zipformer` for what a chunk sees.
"""
