"""Making training data in StreamSpeech's format: feature zips, units, SentencePiece dictionaries, manifests, yamls."""


class DataError(ValueError):
    """Input that data cannot be made of; the message names the file and the fix."""
