"""What a session begins with: can its bundle do what its options ask for, and the stream that does it."""

from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.chunk_writer import check_chunks
from echostream_plugin.inference.errors import SessionError
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.sentences import SentenceStream
from echostream_plugin.inference.text_sentences import TextSentences
from echostream_plugin.inference.translators import TRANSLATORS


def check_session(bundle: Bundle, options: SessionOptions) -> None:
    """Raise SessionError where the bundle cannot do it, BundleError where its punctuator cannot be used."""
    if options.speaks and bundle.vocoder is None:
        raise SessionError("the bundle has no vocoder: use speech=False, or give one to save_bundle(vocoder=...)")
    translator = TRANSLATORS[options.decoding]
    check_chunks(bundle, options, translator.in_chunks)
    if options.translate:
        translator.check(bundle, options)
    if options.punctuate or options.reads_text:
        bundle.punctuator.stream("source", options.punctuation_delay)  # raises what is wrong with it


def open_stream(bundle: Bundle, options: SessionOptions) -> SentenceStream:
    """The sentences of a new utterance."""
    return (TextSentences if options.reads_text else SentenceStream)(bundle, options)
