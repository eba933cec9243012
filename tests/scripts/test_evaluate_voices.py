"""The evaluation on voices: every part of the table from a small corpus, kept and gone on with, and what is missing."""

import json

import pytest
import soundfile

from echostream_plugin.data.tables import write_table
from echostream_plugin.evaluation import voices
from echostream_plugin.evaluation.latency import SpeechInstance
from echostream_plugin.evaluation.simul import Utterance
from echostream_plugin.evaluation.voices import Folder
from tests.scripts.conftest import load_script
from tests.tiny_bundle import speechlike

evaluate_voices = load_script("evaluate_voices")
TEXTS = ["t1 t2 t3", "t5 t6", "t7 t8 t9 t1", "t2"]


def write_list(corpus, name, wavs, texts):
    folder = corpus / "simuleval" / name
    folder.mkdir(parents=True)
    (folder / "wav_list.txt").write_text("".join(f"{wav}\n" for wav in wavs))
    (folder / "target.txt").write_text("".join(f"{text}\n" for text in texts))
    (folder / "src.txt").write_text("".join(f"s{number} s2\n" for number in range(len(wavs))))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    corpus = tmp_path_factory.mktemp("corpus")
    wavs = {}
    for name in ("src_wav", *(f"src_wav/{variant}" for variant in voices.VARIANTS), "not_spanish/test"):
        (corpus / name).mkdir(parents=True)
        wavs[name] = [corpus / name / f"{number}.wav" for number in range(4)]
        for number, wav in enumerate(wavs[name]):
            soundfile.write(wav, speechlike(0.7 + 0.2 * number, seed=number + len(name)), 16000)
    clean = wavs["src_wav"]
    write_list(corpus, "test", clean, TEXTS)
    write_list(corpus, "human", clean[:2], TEXTS[:2])
    for name, places in (("heard", [0, 2]), ("held-out", [1, 3]), ("pico", [1, 2])):
        write_list(corpus, f"test-{name}", [clean[p] for p in places], [TEXTS[p] for p in places])
    for variant in voices.VARIANTS:
        write_list(corpus, f"test-{variant}", wavs[f"src_wav/{variant}"], TEXTS)
    kinds = ("human", "human", "noise", "silence")
    rows = [dict(id=str(n), kind=kind, what="", wav=f"test/{n}.wav", seconds="1") for n, kind in enumerate(kinds)]
    write_table(corpus / "not_spanish" / "test.tsv", ("id", "kind", "what", "wav", "seconds"), rows)
    return corpus


def test_every_part_has_its_rows_and_nothing_is_translated_twice(bundle_folder, corpus, tmp_path, monkeypatch, capsys):
    arguments = ["--bundle", str(bundle_folder), "--corpus", str(corpus), "--output", str(tmp_path), "--no-asr-bleu"]
    arguments += ["--row", "2", "--left-out", f"pico={bundle_folder}", "--also", f"us={corpus / 'simuleval' / 'human'}"]
    assert evaluate_voices.main(arguments) == 0
    text = (tmp_path / "voices.md").read_text()
    tables = json.loads((tmp_path / "voices.json").read_text())["tables"]
    assert [row["part"] for row in tables["quality"]] == ["a", "b", "", "c", "d", ""]
    heard, _, pico, left_out, people, us = tables["quality"]
    assert heard["recordings"] == 2 and pico["text_bleu"] == left_out["text_bleu"]
    assert people["text_bleu"] == us["text_bleu"] and "wer" in people and len(heard["AL"]) == 3
    assert [row["condition"] for row in tables["losses"]] == ["clean", *voices.VARIANTS]
    clean, noisy = tables["losses"][:2]
    assert noisy["lost"][0] == pytest.approx(clean["text_bleu"][0] - noisy["text_bleu"][0], abs=0.01)
    assert [row["mode"] for row in tables["rows"]] == ["without pause_ms", "pause_ms 400"]
    assert tables["rows"][0]["recordings"] == 4 and [row["kind"] for row in tables["nothing"]][-1] == "all"
    assert len(tables["early"]) == 4 and not tables["units"]
    assert "| training voices | 2 |" in text and "scripts/evaluate_voices.py --bundle" in text
    monkeypatch.setattr("echostream_plugin.evaluation.offline._prepare", lambda *args: pytest.fail("translated again"))
    assert evaluate_voices.main(arguments) == 0
    assert (tmp_path / "voices.md").read_text() == text


def test_what_the_corpus_lacks_is_said_and_left_out(bundle_folder, corpus, tmp_path, capsys):
    folder = tmp_path / "corpus" / "simuleval"
    folder.parent.mkdir()
    write_list(folder.parent, "test", [corpus / "src_wav" / "0.wav"], TEXTS[:1])
    arguments = ["--bundle", str(bundle_folder), "--corpus", str(folder.parent), "--output", str(tmp_path / "out")]
    arguments += ["--no-asr-bleu", "--parts", "b", "d", "g", "f", "--options", "lagging_k1=2", "--most", "1"]
    assert evaluate_voices.main(arguments) == 0
    said = capsys.readouterr().err
    assert all(name in said for name in ("test-held-out is not there", "simuleval/human", "not_spanish/test.tsv"))
    assert list((tmp_path / "out").glob("bundle-*-options-*/320ms_most1/voices.json"))
    assert evaluate_voices.main([*arguments[:-4], "--options", "lagging=2"]) == 1
    assert "unknown session option(s) lagging" in capsys.readouterr().err
    (folder / "test" / "target.txt").write_text("one\ntwo\n")
    assert evaluate_voices.main(arguments) == 1
    assert "target.txt: 2 lines for 1 recordings" in capsys.readouterr().err


def written(text, unsure=()):
    return Utterance(0, SpeechInstance(0, 1000.0, (), ()), [], [(1000.0, text)] if text else [], [], unsure=unsure)


def test_rows_are_compared_recording_by_recording():
    """A row that translates as the single recordings do is worth as much; one that stops after the first is not."""
    references = ["where is the old station", "the train leaves at nine today"]
    single = [written(reference) for reference in references]
    whole = voices.in_a_row([written(" ".join(references))], single, references, 2)
    cut = voices.in_a_row([written(references[0])], single, references, 2)
    assert whole["ratio"].value == pytest.approx(1.0) and cut["ratio"].value < 0.7
    assert whole["text_bleu"].value == pytest.approx(100.0)


def test_losses_are_of_the_same_recordings(tmp_path):
    """Of a noisy set that has only the second recording, the second clean one counts, and nothing else."""
    wavs, references = [tmp_path / "0.wav", tmp_path / "1.wav"], ["a b c d e", "where is the old station"]
    clean = Folder(wavs, references, []), [written("no"), written("where is the old station")]
    noisy = Folder([tmp_path / "n" / "1.wav"], references[1:], []), [written("where is the old house")]
    first, second = voices.losses(clean, {"noise10": noisy})
    assert first["recordings"] == 2 and second["recordings"] == 1
    assert second["lost"].value == pytest.approx(100 - second["text_bleu"].value) and second["lost"].value > 20


def test_refusals_and_words_of_nothing():
    utterances = [written("a word"), written(""), written("half", ((500.0, 900.0, 0.1),)), written("")]
    assert [voices.refused(utterance) for utterance in utterances] == [False, True, True, True]
    rows = voices.words_of_nothing(utterances, ["noise", "noise", "human", "human"])
    assert [(row["kind"], row["wordy"].value) for row in rows] == [("noise", 50.0), ("human", 50.0), ("all", 50.0)]
    assert rows[0]["words"] == 1.0
    assert voices.same_words("It costs 15 euros.", "it costs fifteen euros") and not voices.same_words("a", "b")


def test_a_row_of_recordings_is_written_once_for_each_length(corpus, tmp_path):
    folder = Folder.read(corpus / "simuleval" / "test")
    row = voices.write_rows(folder, tmp_path, 3)
    assert len(row.wavs) == 1 and row.references == [" ".join(TEXTS[:3])]
    spoken = sum(soundfile.info(wav).duration for wav in folder.wavs[:3])
    assert spoken < soundfile.info(row.wavs[0]).duration < spoken + 3 * 1.21
    content = row.wavs[0].read_bytes()
    assert voices.write_rows(folder, tmp_path, 3).wavs[0].read_bytes() == content
