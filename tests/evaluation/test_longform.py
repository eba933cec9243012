"""Scores of long translations are those of OmniSTEval and simulstream; runs go on after a kill with the same output."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from echostream_plugin.evaluation import long_run, longform
from echostream_plugin.evaluation import speech_words as heard
from echostream_plugin.evaluation.long_recordings import KINDS, Segment, build, read_samples, write_segmentation
from echostream_plugin.evaluation.long_run import Push, TimedSession, is_complete, read_pushes
from echostream_plugin.evaluation.long_table import LongEvaluation, evaluate, told_ends
from echostream_plugin.evaluation.longform import Words, boundaries, score_words, sentence_places, write_scored
from echostream_plugin.evaluation.oracle import oracle_ends
from echostream_plugin.inference import snapshot
from echostream_plugin.inference.endpointing import ENDPOINTERS
from echostream_plugin.inference.events import Sentence
from echostream_plugin.inference.runs import Checkpoint
from echostream_plugin.inference.session import TranslationSession
from tests.scripts.conftest import load_script
from tests.tiny_bundle import save_tiny_bundle, speechlike, tiny_bundle

TEXTS = ["my room is number one", "where is the hospital please", "the train leaves at ten", "i am tired", "good night"]
POLICY = "max_tokens=4,longest_sentence_ms=4000"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny bundle, and a recording of 20 s with and one without silences."""
    folder = tmp_path_factory.mktemp("longform")
    bundle = save_tiny_bundle(folder)
    for number in range(3):
        soundfile.write(folder / f"{number}.wav", speechlike(1.5 + 0.4 * number, seed=number) + 0.02, 16000)
    for name in ("wav_list", "src", "target"):
        lines = [f"{n}.wav" if name == "wav_list" else f"t{n} t2 t3 t4" for n in range(3)]
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    samples, recordings = read_samples(folder), {}
    (folder / "talks").mkdir()
    for kind in ("silences", "none"):
        recordings[f"{kind}.wav"] = build(samples, KINDS[kind], 0.33, 1, folder / "talks" / f"{kind}.wav")
    write_segmentation(folder / "talks", recordings)
    (folder / "one").mkdir()
    shutil.copy(folder / "talks" / "none.wav", folder / "one")
    write_segmentation(folder / "one", {"none.wav": recordings["none.wav"]})
    return SimpleNamespace(bundle=bundle, talks=folder / "talks", one=folder / "one", recordings=recordings)


def asked(place, output, *policies, **more):
    return LongEvaluation(place.bundle, place.talks, output, list(policies), **more)


def a_talk(seed=0):
    """Segments, and a translation of them with words missing, wrong and too many, and its times."""
    generator, start, segments = np.random.default_rng(seed), 0.0, []
    for number in range(12):
        duration = float(generator.integers(1500, 4000))
        segments.append(Segment(start, duration, "", TEXTS[number % len(TEXTS)]))
        start += duration + float(generator.integers(0, 900))
    words, delays = [], []
    for segment in segments:
        said = [word for word in segment.reference.split() if generator.random() < 0.85]
        said += ["again"] * (generator.random() < 0.3)
        step = segment.duration_ms / max(1, len(said))
        delays += [320 * round((segment.start_ms + 900 + step * place) / 320) for place in range(len(said))]
        words += said
    end = segments[-1].end_ms
    delays = tuple(float(min(delay, end)) for delay in np.maximum.accumulate(delays))
    aware = tuple(delay + 50.0 + 7 * place for place, delay in enumerate(delays))
    return Words(tuple(words), delays, aware), segments


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_are_omnistevals_on_the_files_that_it_is_given(tmp_path, seed):
    io = pytest.importorskip("omnisteval.io", reason="needs: pip install omnisteval==0.1.10")
    from omnisteval.resegment import resegment
    from omnisteval.scoring import evaluate_instances

    output, segments = a_talk(seed)
    write_scored(tmp_path, "talk.wav", output, segments, segments[-1].end_ms)
    names = [str(tmp_path / name) for name in ("segmentation.yaml", "reference.txt", "instances.log")]
    instances, _ = resegment(*io.load_resegmentation_inputs(names[0], None, *names[1:]))
    theirs = evaluate_instances(instances)[0]
    ours = score_words(output, segments)
    assert ours["bleu"].value == pytest.approx(theirs["bleu"], abs=1e-6)
    assert ours["chrf"].value == pytest.approx(theirs["chrf"], abs=1e-6)
    assert ours["long_yaal"].value == pytest.approx(theirs["long_yaal"], abs=1.0)
    assert ours["long_yaal_ca"].value == pytest.approx(theirs["ca_long_yaal"], abs=1.0)
    assert ours["bleu"].low < ours["bleu"].value < ours["bleu"].high < 100


def test_scores_as_omnisteval_printed_them():
    """OmniSTEval 0.1.10 on the same talk, where it is not installed."""
    output, segments = a_talk(0)
    ours = score_words(output, segments)
    found = [ours[name].value for name in ("bleu", "chrf", "long_yaal", "long_yaal_ca")]
    assert found == pytest.approx([57.9163, 75.9083, 951.0257, 1143.6507], abs=1e-3)


def test_stream_laal_is_simulstreams():
    pytest.importorskip("simulstream", reason="needs: pip install simulstream==1.0.0 mweralign==1.4.1")
    pytest.importorskip("mweralign")
    from simulstream.metrics.readers import OutputWithDelays, ReferenceSentenceDefinition
    from simulstream.metrics.scorers.latency import LatencyScoringSample
    from simulstream.metrics.scorers.latency.stream_laal import StreamLaal

    output, segments = a_talk(2)
    references = [ReferenceSentenceDefinition(s.reference, s.start_ms / 1000, s.duration_ms / 1000) for s in segments]
    times = [[delay / 1000 for delay in delays] for delays in (output.delays, output.delays_ca)]
    sample = LatencyScoringSample("talk", OutputWithDelays(" ".join(output.words), *times), references)
    theirs = StreamLaal(SimpleNamespace(latency_unit="word")).score([sample])
    ours = score_words(output, segments)
    assert ours["stream_laal"].value == pytest.approx(1000 * theirs.ideal_latency, abs=1.0)
    assert ours["stream_laal_ca"].value == pytest.approx(1000 * theirs.computational_aware_latency, abs=1.0)


def test_lag_that_grows_is_seen():
    segments = [Segment(2000.0 * n, 1500.0, "", "one two") for n in range(40)]
    delays = tuple(s.end_ms + 100.0 * n for n, s in enumerate(segments) for _ in range(2))
    row = score_words(Words(("one", "two") * 40, delays, delays), segments)
    assert row["lag_first"].value == pytest.approx(150, abs=1) and row["lag_last"].value == pytest.approx(3750, abs=1)
    assert row["end_offset"].value == pytest.approx(1950)


def ended(*end_ms):
    return [{"kind": "sentence", "end_ms": end, "source_ms": 0.0} for end in end_ms]


def test_a_sentence_lies_where_the_next_one_was_opened():
    pushes = [
        Push(320.0, 1, 0.0, 0, []),
        Push(640.0, 1, 400.0, 0, ended(380.0)),
        Push(2000.0, 1, 1700.0, 0, ended(900.0, 1600.0)),
        Push(2320.0, 1, 1900.0, 0, []),  # silence was skipped
        Push(2640.0, 1, 1900.0, 0, ended(2600.0)),  # the end of the stream
    ]
    assert sentence_places(pushes) == [(400.0, 640.0, True), (900.0, 2000.0, True), (1700.0, 2000.0, True)]
    segments = [Segment(0.0, 400.0, "", "a"), Segment(450.0, 1300.0, "", "b"), Segment(1900.0, 740.0, "", "c")]
    found = boundaries(pushes, segments)
    assert (found.silences, found.found, found.extra, found.delays_ms) == (2, 2, 1, (240.0, 250.0))


@pytest.mark.parametrize("changes", [{}, {"fresh_encoder": True}, {"chunk_ms": 960}])
@pytest.mark.parametrize("kind", ["silences", "none"])
def test_the_oracle_ends_every_sentence_where_it_ends_and_nowhere_else(place, kind, changes):
    segments = place.recordings[f"{kind}.wav"]
    samples, _ = soundfile.read(place.talks / f"{kind}.wav", dtype="float32")
    options = {"pause_ms": 200, "longest_sentence_ms": 1000, "max_tokens": 3, "speech": False, **changes}
    with oracle_ends([segment.end_ms for segment in segments]):
        session = TranslationSession(tiny_bundle(), endpointer="oracle", **options)
        begun, sentences, honest = [], 0, session._stream._begin_sentence
        session._stream._begin_sentence = lambda frame: (begun.append(frame), honest(frame))
        for start in range(0, len(samples), 5120):
            events = session.push(samples[start : start + 5120], 16000)
            sentences += sum(isinstance(event, Sentence) for event in events)
    assert begun == [-(-round(s.end_ms) // 40) for s in segments[: len(begun)]]
    assert sentences == len(begun) >= len(segments) - 1
    assert "oracle" not in ENDPOINTERS


def test_the_oracle_hears_as_much_silence_as_the_others():
    segments = [Segment(0.0, 1000.0, "", "a"), Segment(2000.0, 500.0, "", "b"), Segment(2600.0, 900.0, "", "c")]
    assert told_ends(segments, 200) == [1200.0, 2600.0, 3700.0]


def test_a_row_for_each_recording_and_policy_and_no_work_twice(place, tmp_path, monkeypatch):
    policies = [f"{POLICY},endpointer={name}" for name in ("energy", "oracle")]
    rows, folders = evaluate(asked(place, tmp_path, *policies))
    assert [(row["recording"], row["policy"]) for row in rows] == [
        (recording, policy) for policy in policies for recording in ("silences", "none")
    ]
    columns = set(longform.QUALITY) | set(longform.COURSE)
    for row in rows:
        missing = {name for name in columns if row.get(name) is None}
        assert missing <= {"revised_bleu", "found_after", "stream_laal", "stream_laal_ca"}, missing
    oracle = {row["recording"]: row for row in rows if "oracle" in row["policy"]}
    assert all(row["found"].value == 100 and row["extra"] == 0 for row in oracle.values())
    assert rows[0]["step_first"] > 0 and rows[0]["memory_last"] > 50 and len(set(folders)) == 4
    monkeypatch.setattr(long_run, "translate_recording", None)
    again, _ = evaluate(asked(place, tmp_path, *policies))
    assert again == rows


class Killed(BaseException):
    """Nothing in the program catches it."""


def test_a_run_that_was_killed_goes_on_with_the_same_output(place, tmp_path, monkeypatch):
    policy = f"{POLICY},revise=true"
    place = SimpleNamespace(bundle=place.bundle, talks=place.one)
    whole, (one,) = evaluate(asked(place, tmp_path / "whole", policy))
    pushes, honest = [], TimedSession.push_events

    def fragile(self, *args, **more):
        pushes.append(1)
        if len(pushes) == 45:
            shutil.copytree(tmp_path / "out", tmp_path / "disk")  # what a kill -9 leaves: nothing is closed
            raise Killed
        return honest(self, *args, **more)

    monkeypatch.setattr(TimedSession, "push_events", fragile)
    with pytest.raises(Killed):
        evaluate(asked(place, tmp_path / "out", policy))
    shutil.rmtree(tmp_path / "out")
    shutil.move(tmp_path / "disk", tmp_path / "out")
    (begun,) = (tmp_path / "out").iterdir()
    assert not is_complete(begun)
    heard_ms = snapshot.load(Checkpoint(begun, {}).path)["taken_samples"] / 16
    notes = (begun / "pushes.jsonl").read_text().splitlines()
    kept = [note for note in notes if note and json.loads(note)["source_ms"] <= heard_ms]
    assert heard_ms > 5000 and len(kept) == heard_ms / 320 and len(kept) < 44
    (begun / "pushes.jsonl").write_text("\n".join([*kept, '{"call": "pu']))  # half a line after the checkpoint
    (row,), (again,) = evaluate(asked(place, tmp_path / "out", policy))
    assert 45 < len(pushes) < len(read_pushes(one)) + 45 - 20  # it did not begin anew
    assert again.name == one.name
    for name in ("events.jsonl", "heard.wav", "translation.srt"):
        assert (again / name).read_bytes() == (one / name).read_bytes()
    assert list(map(_plain, read_pushes(again))) == list(map(_plain, read_pushes(one)))
    assert row["revised_bleu"] is not None
    for name in ("bleu", "revised_bleu", "chrf", "found", "extra", "long_yaal", "end_offset", "lag_last"):
        assert row[name] == whole[0][name], name


def _plain(push):
    return push.source_ms, push.opened_ms, push.events


class FakeASR:
    """Hears a word at every beep."""

    settings = "beeps"
    asked = 0

    def words(self, samples):
        FakeASR.asked += 1
        loud = np.flatnonzero(np.abs(samples) > 0.1)
        beeps = np.split(loud, np.flatnonzero(np.diff(loud) > 1600) + 1) if len(loud) else []
        return [("beep", beep[0] / 16000, beep[-1] / 16000) for beep in beeps]


def test_words_of_speech_are_there_when_they_have_been_heard(tmp_path):
    """Two chunks come faster than they can be played, a third after a long silence."""
    chunks = [(1000.0, 800.0), (1320.0, 800.0), (40000.0, 800.0)]
    beep = np.r_[np.zeros(4800), np.full(3200, 0.5), np.zeros(4800)].astype(np.float32)  # 300, 200, 300 ms
    track = np.zeros(16000 * 41, np.float32)
    for start in (1000, 1800, 40000):
        track[16 * start : 16 * start + len(beep)] = beep
    soundfile.write(tmp_path / "heard.wav", track, 16000)
    pushes = [
        Push(said, 500.0, 0.0, 0.0, [{"kind": "speech", "source_ms": said, "duration_ms": lasts}])
        for said, lasts in chunks
    ]
    found = heard.speech_words(tmp_path, pushes, FakeASR())
    assert found.words == ("beep",) * 3 and found.delays == pytest.approx((1500, 2300, 40500), abs=1)
    assert found.delays_ca == pytest.approx((2000, 2800, 41000), abs=1)
    before = FakeASR.asked
    assert heard.speech_words(tmp_path, pushes, FakeASR()) == found and FakeASR.asked == before == 2


def test_pieces_are_cut_at_their_longest_silence_and_share_no_sound():
    chunks = [(1000.0 * n, 1000.0 * n + 900) for n in range(35) if n != 25]
    assert heard.pieces(chunks) == [chunks[:25], chunks[25:]]
    steady = [(1000.0 * n, 1000.0 * (n + 1)) for n in range(70)]
    found = heard.pieces(steady)
    assert sum(found, []) == steady and all(piece[-1][1] - piece[0][0] <= 29000 for piece in found)
    wide = heard.widened([[(100.0, 300.0), (400.0, 900.0)], [(1000.0, 1500.0)], [(9000.0, 9500.0)]])
    assert wide == [(0.0, 950.0), (950.0, 1700.0), (8800.0, 9700.0)]
    assert heard.pieces([]) == [] == heard.widened([])


class Looping(FakeASR):
    """Repeats its first word for ever where it hears more than one beep."""

    def words(self, samples):
        found = super().words(samples)
        return found if len(found) < 2 else [("Beep,", *found[0][1:])] * 40


def test_an_asr_that_repeats_itself_hears_shorter_pieces(tmp_path):
    beep = np.r_[np.zeros(4800), np.full(3200, 0.5), np.zeros(4800)].astype(np.float32)
    soundfile.write(tmp_path / "heard.wav", np.tile(beep, 3), 16000)
    records = [{"kind": "speech", "source_ms": 800.0 * n, "duration_ms": 800.0} for n in range(3)]
    found = heard.speech_words(tmp_path, [Push(r["source_ms"], 0.0, 0.0, 0.0, [r]) for r in records], Looping())
    assert found.words == ("beep",) * 3 and found.delays == pytest.approx((500, 1300, 2100), abs=1)


def test_the_script_prints_both_tables_and_names_what_is_wrong(place, tmp_path, capsys):
    script = load_script("evaluate_longform")
    common = ["--bundle", str(place.bundle), "--recordings", str(place.talks), "--output", str(tmp_path)]
    page = tmp_path / "page.md"
    assert script.main([*common, "--write", str(page), f"{POLICY},endpointer=oracle"]) == 2
    assert "page.md: no such file" in capsys.readouterr().err and not list(tmp_path.iterdir())  # nothing was run
    page.write_text("Before\n<!-- results:begin -->\n<!-- results:end -->\n")
    assert script.main([*common, "--write", str(page), f"{POLICY},endpointer=oracle"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| none | max_tokens=4") == 2 and "LongYAAL" in printed
    assert "    python scripts/evaluate_longform.py --bundle" in printed
    assert (tmp_path / "longform.md").read_text() == printed
    assert page.read_text() == f"Before\n<!-- results:begin -->\n{printed.strip()}\n<!-- results:end -->\n"
    facts = json.loads((tmp_path / "longform.json").read_text())
    assert len(facts["rows"]) == 2 and len(facts["rows"][0]["bleu"]) == 3
    for wrong in ("endpointer=ear", "pause=2", "endpointer=text"):
        assert script.main([*common, wrong]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert script.main([*common[:3], str(tmp_path), *common[4:], POLICY]) == 2
    assert "segmentation.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main([*common, "--push-ms", "0", POLICY])
    (tmp_path / "file").write_text("")
    assert script.main([*common[:4], "--output", str(tmp_path / "file"), POLICY]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
