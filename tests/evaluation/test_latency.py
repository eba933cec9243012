"""Latency: equal to SimulEval's scorers where those are right, and computation-aware is never below plain."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream_plugin.evaluation.latency import (
    LatencyError,
    SpeechInstance,
    TextInstance,
    average_token_delay,
    computation_aware,
    finish_times,
    laal,
    playback,
    read_speech_log,
    score_latency,
    speech_metrics,
    text_metrics,
    words_with_delays,
    yaal,
)

SEGMENT_MS = 320


@st.composite
def runs(draw):
    """An utterance as SimulEval runs it: pushes with computing times, some of them writing speech or words."""
    count = draw(st.integers(1, 12))
    tail = draw(st.integers(1, SEGMENT_MS))
    arrivals = [float(SEGMENT_MS * (i + 1)) for i in range(count - 1)]
    arrivals.append((arrivals[-1] if arrivals else 0.0) + tail)
    pushes = [(arrival, draw(st.floats(0, 900))) for arrival in arrivals]
    writing = draw(st.lists(st.sampled_from(arrivals), min_size=1, max_size=count, unique=True))
    delays = tuple(sorted(writing))
    durations = tuple(float(draw(st.integers(1, 60)) * 20) for _ in delays)
    return SpeechInstance(0, arrivals[-1], delays, durations, reference="one two three"), pushes


@given(runs())
def test_computation_aware_is_never_below_plain(run):
    instance, pushes = run
    aware = computation_aware(instance.delays, pushes)
    assert all(later >= plain for later, plain in zip(aware, instance.delays, strict=True))
    plain_scores, aware_scores = speech_metrics(instance), speech_metrics(instance, aware)
    for name in ("StartOffset", "EndOffset", "ATD", "RTF"):
        assert aware_scores[name] >= plain_scores[name] - 1e-6, name


@given(runs())
def test_computation_aware_al_of_words_is_never_below_plain(run):
    instance, pushes = run
    words = TextInstance(0, instance.source_ms, ("w",) * len(instance.delays), instance.delays, "one two three")
    scores = score_latency([instance], [words], {0: pushes})
    for name in ("AL", "LAAL", "StartOffset", "EndOffset", "ATD"):
        assert scores[f"{name}_CA"] >= scores[name] - 1e-6, name


@given(runs())
def test_a_listener_has_nothing_before_it_is_written(run):
    instance, pushes = run
    truth = computation_aware(instance.delays, pushes)
    assert all(t >= p - 1e-6 for t, p in zip(truth, instance.delays, strict=True))


@given(runs())
def test_al_and_laal_equal_simuleval(run):
    scorers = pytest.importorskip("simuleval.evaluator.scorers.latency_scorer")
    instance, _ = run
    words = TextInstance(0, instance.source_ms, ("w",) * len(instance.delays), instance.delays, "one two three")
    view = SimpleNamespace(
        delays=list(words.delays), source_length=words.source_ms, reference=words.reference, reference_length=3
    )
    scores = text_metrics(words)
    assert scores["AL"] == pytest.approx(scorers.ALScorer().compute(view))
    assert scores["LAAL"] == pytest.approx(scorers.LAALScorer().compute(view))


@given(runs())
def test_speech_metrics_equal_simuleval_on_live_instances(run):
    scorers = pytest.importorskip("simuleval.evaluator.scorers.latency_scorer")
    from simuleval.evaluator.instance import SpeechOutputInstance

    instance, _ = run
    live = object.__new__(SpeechOutputInstance)
    live.__dict__.update(delays=list(instance.delays), durations=list(instance.durations), metrics={}, reference=None)
    live.intervals = [[start, end - start] for start, end in playback(instance.delays, instance.durations)]
    view = type("Live", (SpeechOutputInstance,), {"source_length": instance.source_ms})
    live.__class__ = view  # source_length is a property of SimulEval's class; here it is a number
    scores = speech_metrics(instance)
    assert scores["ATD"] == pytest.approx(scorers.ATDScorer()({0: live}))
    assert scores["StartOffset"] == scorers.StartOffsetScorer().compute(live)
    assert scores["EndOffset"] == pytest.approx(scorers.EndOffsetScorer().compute(live))
    assert scores["RTF"] == pytest.approx(scorers.RTFScorer().compute(live))


def test_al_and_laal_by_hand():
    words = TextInstance(0, 4000.0, ("a", "b", "c", "d"), (1000.0, 2000.0, 3000.0, 4000.0), "a b c d")
    assert text_metrics(words) == {"AL": 1000.0, "LAAL": 1000.0}
    late = TextInstance(0, 4000.0, words.words, (4000.0,) * 4, "a b c d")
    assert text_metrics(late)["AL"] == 4000.0
    assert text_metrics(words, available=(1500.0, 2500.0, 3500.0, 4500.0))["AL"] == 1500.0


def test_a_word_is_complete_when_the_next_begins_or_the_source_ends():
    words, delays = words_with_delays([(320, "where is"), (640, " the sta"), (960, "tion"), (1280, " now?")], 1500.0)
    assert words == ("where", "is", "the", "station", "now?")
    assert delays == (320, 640, 640, 1280, 1500)
    assert words_with_delays([], 1500.0) == ((), ())


def test_computing_that_fits_between_pushes_does_not_add_up():
    assert finish_times([320, 640, 960], [100, 100, 100]) == [420, 740, 1060]
    assert finish_times([320, 640, 960], [500, 100, 0]) == [820, 920, 960]


def test_a_flush_at_the_end_waits_for_the_last_push():
    assert computation_aware((640.0, 640.0), [(320.0, 10.0), (640.0, 20.0), (640.0, 30.0)]) == (690.0, 690.0)
    with pytest.raises(LatencyError, match="another run"):
        computation_aware((100.0,), [(320.0, 10.0)])


def test_speech_that_waits_for_nothing_has_a_constant_token_delay():
    assert average_token_delay((300.0, 600.0, 900.0), (300.0, 300.0, 300.0)) == pytest.approx(300.0)


def test_a_log_is_read_in_order_and_a_torn_tail_is_left_out(tmp_path):
    log = tmp_path / "instances.log"
    entries = [
        {"index": i, "delays": [320.0], "durations": [400.0], "source_length": 640.0, "reference": "hi"} for i in (1, 0)
    ]
    log.write_text("\n".join(json.dumps(e) for e in entries) + '\n{"index": 2, "del')
    assert [instance.index for instance in read_speech_log(log)] == [0, 1]
    log.write_text('nonsense\n{"index": 0}\n')
    with pytest.raises(LatencyError, match="instances.log:1"):
        read_speech_log(log)


def test_an_utterance_without_output_is_left_out_of_the_means():
    silent = SpeechInstance(0, 1000.0, (), ())
    spoken = SpeechInstance(1, 1000.0, (640.0,), (500.0,))
    scores = score_latency([silent, spoken], [], {0: [(1000.0, 100.0)], 1: [(640.0, 50.0), (1000.0, 50.0)]})
    assert scores["StartOffset"] == 640.0 and scores["StartOffset_CA"] == 690.0
    assert scores["compute_RTF"] == pytest.approx(0.1)
    assert SimpleNamespace(**scores).EndOffset == pytest.approx(140.0)


SEGMENTS = [  # delays in ms from the segment's start, source ms, reference words, ms to the recording's end
    ((640.0, 960.0, 960.0, 1600.0), 2000.0, 5, 60000.0),
    ((640.0, 2560.0, 3200.0), 2000.0, 3, 60000.0),  # later words count, the recording goes on
    ((1280.0, 1600.0, 2000.0), 2000.0, 2, 2000.0),  # the recording ends with the segment
    ((2000.0, 2000.0), 2000.0, 2, 2000.0),
    ((-320.0, 320.0), 1234.5, 7, 8000.0),
    ((), 1000.0, 4, 9000.0),
]


def test_yaal_is_what_omnisteval_printed():
    """OmniSTEval 0.1.10 on these segments."""
    expected = [440.0, 1466.6666666666667, 1106.6666666666667, None, -88.17857142857142, None]
    found = [yaal(*segment) for segment in SEGMENTS]
    assert [value is None for value in found] == [value is None for value in expected]
    assert [v for v in found if v is not None] == pytest.approx([v for v in expected if v is not None], abs=1.0)
    assert yaal((640.0, 2560.0), 2000.0, 2) == 640.0 and yaal((2000.0,), 2000.0, 2) is None


delay_lists = st.lists(st.floats(-5000, 30000), max_size=12).map(lambda delays: tuple(sorted(delays)))


@given(delay_lists, st.floats(100, 20000), st.integers(1, 30), st.floats(0, 30000))
def test_yaal_equals_omnisteval(delays, source_ms, words, further_ms):
    scoring = pytest.importorskip("omnisteval.scoring", reason="needs: pip install omnisteval==0.1.10")
    data = pytest.importorskip("omnisteval.data")
    end_ms = source_ms + further_ms
    view = data.Instance(
        reference=" ".join(["w"] * words), source_length=source_ms, emission_cu=list(delays),
        time_to_recording_end=end_ms,
    )  # fmt: skip
    long = scoring.YAALScorer(is_longform=True).compute(view) if delays else None
    assert yaal(delays, source_ms, words, end_ms) == (None if long is None else pytest.approx(long, abs=1.0))
    view.time_to_recording_end = None
    short = scoring.YAALScorer().compute(view) if delays else None
    assert yaal(delays, source_ms, words) == (None if short is None else pytest.approx(short, abs=1.0))


@given(delay_lists.filter(bool), st.floats(100, 20000), st.integers(1, 30))
def test_laal_of_a_segment_equals_simulstream(delays, source_ms, words):
    scorers = pytest.importorskip(
        "simulstream.metrics.scorers.latency.stream_laal",
        reason="needs: pip install simulstream==1.0.0 mweralign==1.4.1",
    )
    theirs = scorers.StreamLaal._sentence_level_laal(list(delays), source_ms, words)
    assert laal(delays, source_ms, words) == pytest.approx(theirs, abs=1.0)
