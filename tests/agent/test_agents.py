"""The SimulEval agents, through SimulEval's own loader, evaluator and instances."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

simuleval_agent = pytest.importorskip("simuleval.utils.agent")
from simuleval.data.segments import EmptySegment, SpeechSegment  # noqa: E402
from simuleval.evaluator import build_evaluator  # noqa: E402
from simuleval.evaluator.scorers.latency_scorer import ALScorer  # noqa: E402

from echostream_plugin.agents import simuleval_repairs  # noqa: E402
from echostream_plugin.agents.event_log import EventLog  # noqa: E402
from echostream_plugin.agents.flags import truth  # noqa: E402
from echostream_plugin.agents.loading import chunk_ms_of, device_name  # noqa: E402
from echostream_plugin.agents.session_agent import WordStream  # noqa: E402
from echostream_plugin.config import ConfigError  # noqa: E402
from echostream_plugin.evaluation.latency import TextInstance, text_metrics, words_with_delays  # noqa: E402
from echostream_plugin.inference.bundle import load_bundle  # noqa: E402
from echostream_plugin.inference.errors import BundleError  # noqa: E402
from echostream_plugin.inference.events import Speech, TargetText  # noqa: E402
from echostream_plugin.inference.session import TranslationSession  # noqa: E402
from tests.speech import HOSPITAL, ROOM  # noqa: E402
from tests.tiny_bundle import save_tiny_bundle, speechlike, tiny_chunk_bundle  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]

MAX_TOKENS = 6
BAD_FILES = {
    "empty": np.zeros(0),
    "short": speechlike(0.02),
    "silent": np.zeros(9000),
    "nan": np.where(np.arange(24000) % 7000 == 6000, np.nan, speechlike(1.5)),
    "stereo": np.stack([speechlike(1.0), speechlike(1.0, seed=1)], axis=1),
    "loud": 1e6 * speechlike(0.5),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A bundle folder, a wav list of two recordings and references."""
    folder = tmp_path_factory.mktemp("agents")
    save_tiny_bundle(folder)
    soundfile.write(folder / "a.wav", speechlike(2.1, seed=3), 16000, subtype="FLOAT")
    soundfile.write(folder / "b.wav", speechlike(1.7, 48000, seed=4), 48000, subtype="FLOAT")
    write_list(folder / "good", [folder / "a.wav", folder / "b.wav"])
    for name, samples in BAD_FILES.items():
        soundfile.write(folder / f"{name}.wav", samples, 16000, subtype="FLOAT")
    soundfile.write(folder / "8k.wav", speechlike(1.0, 8000), 8000)
    whole = (folder / "a.wav").read_bytes()
    (folder / "truncated.wav").write_bytes(whole[: len(whole) // 3])
    write_list(folder / "odd", [folder / f"{name}.wav" for name in (*BAD_FILES, "8k", "truncated")])
    return folder


def write_list(stem, wavs):
    stem.with_suffix(".wavs").write_text("".join(f"{wav}\n" for wav in wavs))
    stem.with_suffix(".refs").write_text("a b c\n" * len(wavs))


def command(data, agent, output, listed="good", segment_ms=320):
    return [
        *("--agent", str(ROOT / "agent" / f"{agent}.py"), "--bundle", str(data / "bundle"), "--output", str(output)),
        *("--source", str(data / f"{listed}.wavs"), "--target", str(data / f"{listed}.refs"), "--no-progress-bar"),
        *("--source-segment-size", str(segment_ms), "--max-len", str(MAX_TOKENS), "--no-scoring"),
    ]


@pytest.fixture
def build(monkeypatch):
    """Agent and arguments from a command line, the way SimulEval builds them."""

    def build(flags):
        simuleval_agent.EVALUATION_SYSTEM_LIST.clear()
        monkeypatch.setattr(sys, "argv", ["simuleval", *flags])
        return simuleval_agent.build_system_args()

    return build


@pytest.fixture
def evaluate(build):
    def evaluate(flags):
        system, args = build(flags)
        build_evaluator(args)(system)
        return [json.loads(line) for line in (Path(args.output) / "instances.log").read_text().splitlines()]

    return evaluate


REFUSED = ("nan", "loud")


@pytest.mark.parametrize("agent", ["echostream_agent", "echostream_s2tt_agent", "echostream_asr_agent"])
def test_a_refused_recording_has_no_translation(data, evaluate, tmp_path, agent, capsys):
    """Neither its bad segment nor what follows is taken for silence, and the run's end says which it was."""
    names = ("loud", "stereo", "nan")
    write_list(tmp_path / "mixed", [data / f"{name}.wav" for name in names])
    flags = command(data, agent, tmp_path / "out")
    flags[flags.index("--source") + 1] = str(tmp_path / "mixed.wavs")
    flags[flags.index("--target") + 1] = str(tmp_path / "mixed.refs")
    instances = evaluate([*flags, "--extra-output-dir", str(tmp_path / "extra")])
    records = [json.loads(line) for line in (tmp_path / "extra" / "events.jsonl").read_text().splitlines()]
    for index, name in enumerate(names):
        own = [record for record in records if record["index"] == index]
        after = [r["kind"] for r in own[[r["kind"] for r in own].index("refused") :]] if name in REFUSED else None
        assert after == (["refused", "finished"] if name in REFUSED else None)
    assert not instances[0]["delays"] and instances[1]["delays"]
    texts = (tmp_path / "extra" / "asr.txt").read_text().splitlines()
    assert len(texts) == 3 and texts[0] == "" != texts[1]
    assert capsys.readouterr().err.count("is not translated") == 2


def test_the_end_of_a_run_names_what_was_refused(tmp_path, capsys):
    log = EventLog(argparse.Namespace(extra_output_dir=None, output_asr_translation=False, start_index=4))
    log.summarise()
    assert capsys.readouterr().err == ""
    log.refuse("not a finite number")
    log.summarise()
    assert "1 recording(s) were refused and have no translation: 4" in capsys.readouterr().err
    log.refused.clear()


def test_words_have_the_delays_of_the_text_agent(evaluate, tmp_path):
    """The latency that evaluation takes from a session's events is what SimulEval says of the text agent."""
    bundle, paths = ROOT / "examples" / "quickstart" / "bundle", (ROOM, HOSPITAL)
    write_list(tmp_path / "samples", paths)
    flags = command(tmp_path, "echostream_s2tt_agent", tmp_path / "out", listed="samples")
    flags[flags.index("--bundle") + 1] = str(bundle)
    flags = flags[: flags.index("--max-len")] + flags[flags.index("--max-len") + 2 :]
    instances, session = evaluate(flags), TranslationSession(load_bundle(bundle), speech=False)
    for instance, path in zip(instances, paths, strict=True):
        samples, rate = soundfile.read(path, dtype="float32")
        session.reset()
        pieces = []
        for start in range(0, len(samples), 5120):
            pieces += session.push(samples[start : start + 5120], rate)
        pieces += session.finish()
        pieces = [(event.source_ms, event.added) for event in pieces if isinstance(event, TargetText)]
        words, delays = words_with_delays(pieces, session.source_ms)
        assert instance["prediction"].split() == list(words) and instance["delays"] == list(delays)
        ours = text_metrics(TextInstance(0, session.source_ms, words, delays, instance["reference"]))
        theirs = SimpleNamespace(**instance, reference_length=len(instance["reference"].split()))
        theirs.source_length, theirs.metrics = instance["source_length"], {}
        assert ours["AL"] == pytest.approx(ALScorer().compute(theirs))


def session_result(data, wav, segment_ms=320, **options):
    session = TranslationSession(load_bundle(data / "bundle"), max_tokens=MAX_TOKENS, **options)
    samples, rate = soundfile.read(data / wav, dtype="float32")
    step, events = rate * segment_ms // 1000, []
    for start in range(0, len(samples), step):
        events += session.push(samples[start : start + step], rate, last=start + step >= len(samples))
    return session, events + session.finish()


def test_speech_to_speech(data, evaluate, tmp_path):
    flags = command(data, "echostream_agent", tmp_path / "out")
    instances = evaluate([*flags, "--extra-output-dir", str(tmp_path / "extra"), "--output-asr-translation", "False"])
    records = [json.loads(line) for line in (tmp_path / "extra" / "events.jsonl").read_text().splitlines()]
    for index, wav in enumerate(("a.wav", "b.wav")):
        session, events = session_result(data, wav)
        speech = [event for event in events if isinstance(event, Speech) and len(event.samples)]
        assert instances[index]["delays"] == sorted({event.source_ms for event in speech})
        assert sum(instances[index]["durations"]) == sum(len(event.samples) for event in speech) / 16
        own = [record for record in records if record["index"] == index]
        assert own[-1]["kind"] == "finished"
        assert [record["text"] for record in own if record["kind"] == "source_text"][-1] == session.source_text
        assert [record["text"] for record in own if record["kind"] == "target_text"][-1] == session.target_text
        assert (tmp_path / "extra" / "st.txt").read_text().splitlines()[index] == session.target_text
    assert len((tmp_path / "extra" / "asr.txt").read_text().splitlines()) == 2
    units = (tmp_path / "extra" / "unit.txt").read_text().split()
    assert units and all(0 <= int(unit) < 20 for unit in units)


@pytest.mark.parametrize(
    "agent, text", [("echostream_s2tt_agent", "target_text"), ("echostream_asr_agent", "source_text")]
)
def test_texts_are_joined_words(data, evaluate, tmp_path, agent, text):
    instances = evaluate(command(data, agent, tmp_path / "out"))
    for instance, wav in zip(instances, ("a.wav", "b.wav"), strict=True):
        session, _ = session_result(data, wav, speech=False)
        assert instance["prediction"] == " ".join(getattr(session, text).split()) != ""
        assert len(instance["delays"]) == len(instance["prediction"].split())


@pytest.mark.parametrize(
    "agent, target", [("echostream_asr_agent", "source_text"), ("echostream_s2tt_agent", "target_text")]
)
def test_text_that_is_written_in_chunks(data, evaluate, tmp_path, agent, target):
    """Words come when the chunk of 640 ms that they are of was heard, or at the end."""
    save_tiny_bundle(tmp_path, tiny_chunk_bundle(target))
    for wav in ("a.wav", "b.wav"):
        (tmp_path / wav).write_bytes((data / wav).read_bytes())
    write_list(tmp_path / "good", [tmp_path / "a.wav", tmp_path / "b.wav"])
    instances = evaluate(command(tmp_path, agent, tmp_path / "out"))
    for instance, wav in zip(instances, ("a.wav", "b.wav"), strict=True):
        session, _ = session_result(tmp_path, wav)
        assert instance["prediction"] == " ".join(getattr(session, target).split()) != ""
        assert all(delay % 640 == 0 or delay == instance["source_length"] for delay in instance["delays"])


POLICIES = {
    "ctc": {"lagging_k1": 1},
    "wait-k": {"wait_segments": 4, "tokens_per_segment": 2},
    "fixed-rate": {"tokens_per_second": 2.5},
    "offline": {},
}


@pytest.mark.parametrize("decoding", ["incremental", "recompute"])
@pytest.mark.parametrize("policy", POLICIES)
def test_policies(data, evaluate, tmp_path, policy, decoding):
    """Each writes, through SimulEval, what a session writes with it, and when it may."""
    options = {"policy": policy, "decoding": decoding, "whole_word": False, **POLICIES[policy]}
    flags = [str(word) for name, value in options.items() for word in ("--" + name.replace("_", "-"), value)]
    instances = evaluate([*command(data, "echostream_s2tt_agent", tmp_path / "out"), *flags])
    session, events = session_result(data, "a.wav", speech=False, **options)
    assert instances[0]["prediction"] == " ".join(session.target_text.split()) != ""
    written = [(event.source_ms, len(event.text.split())) for event in events if isinstance(event, TargetText)]
    first_ms, end_ms = written[0][0], session.source_ms
    assert (first_ms == end_ms) == (policy == "offline") and instances[0]["delays"][0] >= first_ms
    early = [(ms, words) for ms, words in written if ms < end_ms]
    if policy == "wait-k":  # every token of this model is a word at most
        assert first_ms == 4 * 320 and all(words <= 2 * (ms // 320 - 3) for ms, words in early)
    if policy == "fixed-rate":
        assert first_ms == 640 and all(words <= 2.5 * ms / 1000 for ms, words in early)


@pytest.mark.parametrize("agent", ["echostream_agent", "echostream_s2tt_agent", "echostream_asr_agent"])
def test_revisions_change_no_instance(data, evaluate, tmp_path, agent):
    """What SimulEval scores is the same to the last bit, and events.jsonl has the revisions."""
    found = {}
    for revise in ("false", "true"):
        extra = tmp_path / f"extra-{revise}"
        flags = command(data, agent, tmp_path / revise)
        found[revise] = evaluate([*flags, "--revise", revise, "--extra-output-dir", str(extra)])
        for instance in found[revise]:
            instance.pop("elapsed")  # wall-clock time
            if agent == "echostream_agent":
                instance["prediction"] = Path(instance["prediction"]).read_bytes()
    kinds = [json.loads(line)["kind"] for line in (extra / "events.jsonl").read_text().splitlines()]
    assert found["true"] == found["false"] and kinds.count("revision") == 2
    assert [kinds[i + 1] for i, kind in enumerate(kinds) if kind == "revision"] == ["finished"] * 2


def test_an_unknown_policy_is_refused(data, build, tmp_path, capsys):
    with pytest.raises(ConfigError, match="policy 'wait': use ctc or fixed-rate or offline or wait-k"):
        build([*command(data, "echostream_s2tt_agent", tmp_path), "--policy", "wait"])


@pytest.mark.parametrize("agent", ["echostream_agent", "echostream_s2tt_agent"])
def test_odd_recordings_are_survived(data, evaluate, tmp_path, agent, capsys):
    instances = evaluate(command(data, agent, tmp_path / "out", listed="odd"))
    assert len(instances) == len(BAD_FILES) + 2
    assert instances[0]["delays"] == instances[1]["delays"] == []  # no audio, or under 25 ms
    warnings = capsys.readouterr().err
    assert "not a finite number" in warnings and "scale them" in warnings


def segments(samples, rate=16000, size=5120):
    starts = range(0, len(samples), size)
    for start in starts:
        part = samples[start : start + size].tolist()
        yield SpeechSegment(content=part, sample_rate=rate, finished=start == starts[-1], tgt_lang=None)


def test_only_the_last_segment_is_marked_finished(data, build, tmp_path):
    agent, _ = build(command(data, "echostream_agent", tmp_path))
    said = [agent.pushpop(segment) for segment in segments(speechlike(2.0, seed=3))]
    assert [segment.finished for segment in said] == [False] * (len(said) - 1) + [True]
    assert isinstance(said[-1], SpeechSegment) and said[-1].sample_rate == 16000
    assert agent.pop() == EmptySegment(finished=True)  # until the next reset


def test_finish_by_an_empty_segment(data, build, tmp_path):
    """SimulEval ends a source of no samples, and servers any source, by an empty segment."""
    agent, _ = build(command(data, "echostream_agent", tmp_path))
    assert agent.pushpop(EmptySegment(finished=True)).finished
    agent.reset()
    for segment in segments(speechlike(1.0, seed=3)):
        segment.finished = False
        agent.pushpop(segment)
    assert agent.pushpop(EmptySegment(finished=True)).finished


def test_a_reset_in_the_middle_leaves_nothing(data, build, tmp_path):
    agent, _ = build(command(data, "echostream_agent", tmp_path))
    fresh = [agent.pushpop(segment).content for segment in segments(speechlike(1.5, seed=5))]
    agent.reset()
    for segment in list(segments(speechlike(1.5, 48000, seed=6), 48000))[:3]:
        agent.pushpop(segment)
    agent.reset()
    again = [agent.pushpop(segment).content for segment in segments(speechlike(1.5, seed=5))]
    assert again == fresh and any(fresh)


def test_flags_of_streamspeech_scripts_are_taken(data, build, tmp_path):
    extra = (
        "--dur-prediction --lagging-k1 2 --lagging-k2 1 --segment-size 320 --stride-n 3 --stride-n2 2 --force-finish "
        "--unit-per-subword 15 --sample-rate 48000 --global-stats x.json --agent-dir agent --device cpu"
    )
    flags = [*command(data, "echostream_agent", tmp_path), *extra.split()]
    agent, _ = build(flags)
    options = agent.session.options
    assert (options.lagging_k1, options.lagging_k2, options.stride_n, options.stride_n2) == (2, 1, 3, 2)


def test_wrong_flags_say_what_to_do(data, build, tmp_path):
    flags = command(data, "echostream_s2tt_agent", tmp_path)
    with pytest.raises(ConfigError, match="use word or char"):
        build([*flags, "--eval-latency-unit", "spm"])
    with pytest.raises(ConfigError, match="not both"):
        build([*flags, "--model-path", "x.pt"])
    flags[flags.index("--bundle") + 1] = str(tmp_path / "none")
    with pytest.raises(BundleError, match="no such bundle folder"):
        build(flags)


@pytest.mark.parametrize("segment, chunk", [(320, 320), (1000, 1000), (330, 320), (640, 640), (10, 320), (160, 160)])
def test_encoder_segment_fits_into_the_source_segment(segment, chunk):
    assert chunk_ms_of(argparse.Namespace(chunk_ms=None, source_segment_size=segment)) == chunk
    assert chunk_ms_of(argparse.Namespace(chunk_ms=640, source_segment_size=segment)) == 640
    assert chunk_ms_of(argparse.Namespace(chunk_ms=None, source_segment_size=segment), {"chunk_ms": 960}) == 960


def test_word_stream_holds_the_last_word():
    stream, growth = WordStream(), ["", "my", "my sis", "my sister", "my sister watch", "my sister watches the"]
    assert [stream.take(text, False) for text in growth] == ["", "", "my", "", "sister", "watches"]
    assert stream.take("my sister watches the loom", True) == "the loom" and stream.take("", True) == ""


def test_words_are_marked_for_a_simuleval_that_joins_subwords(data, build, tmp_path, monkeypatch):
    """StreamSpeech's own copy of SimulEval joins what a text agent writes without spaces, and `▁` becomes one."""
    from simuleval.evaluator.instance import TextOutputInstance

    flags = command(data, "echostream_s2tt_agent", tmp_path)
    assert not simuleval_repairs.joins_subwords() and build(flags)[0].mark == ""
    joined = property(lambda instance: "".join(instance.prediction_list).replace("▁", " "))
    monkeypatch.setattr(TextOutputInstance, "prediction", joined)
    agent, _ = build(flags)
    written = [agent.pushpop(segment).content for segment in segments(speechlike(2.1, seed=3))]
    words = " ".join(filter(None, written)).split()
    assert words and all(word.startswith("▁") for word in words)
    session, _ = session_result(data, "a.wav", speech=False)
    assert "".join(words).replace("▁", " ").split() == session.target_text.split()


def test_device_without_gpu_falls_back(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device_name.cache_clear()
    assert [device_name(name) for name in ("gpu", "gpu", "cuda:1", "cpu")] == ["cpu"] * 4
    assert capsys.readouterr().err.count("running on the CPU") == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    device_name.cache_clear()
    assert [device_name(name) for name in ("gpu", "cuda:1", "cpu")] == ["cuda", "cuda:1", "cpu"]
    device_name.cache_clear()


def test_booleans_mean_what_they_say():
    assert truth("True") and not truth("False")
    with pytest.raises(argparse.ArgumentTypeError):
        truth("perhaps")


def test_command_line_from_another_folder(data, tmp_path):
    """SimulEval as users run it, agent by path and another current folder."""
    flags = [flag for flag in command(data, "echostream_s2tt_agent", tmp_path / "out") if flag != "--no-scoring"]
    done = subprocess.run(
        [sys.executable, "-m", "simuleval.cli", *flags, "--latency-metrics", "AL", "LAAL"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len((tmp_path / "out" / "instances.log").read_text().splitlines()) == 2
    assert "LAAL" in (tmp_path / "out" / "scores.tsv").read_text()
