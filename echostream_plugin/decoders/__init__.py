"""Decoders: CTC heads, the MT decoder, text-to-unit."""
