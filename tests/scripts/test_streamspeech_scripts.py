"""StreamSpeech's scripts with `--user-dir`, `--arch` and `--agent` changed, on a miniature of its CVSS-C folder.

The command lines are those of its train.simul-s2st.sh, train.offline-s2st.sh, pred.offline-s2st.sh and simuleval.*.sh
at commit 375a73ab, with all their flags; SMALL is what makes the model a test's, and --max-update ends the training.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import soundfile
import torch
import yaml

pytest.importorskip("fairseq")
simuleval_agent = pytest.importorskip("simuleval.utils.agent")

import simuleval.cli  # noqa: E402

from echostream_plugin.agents.loading import device_name  # noqa: E402
from echostream_plugin.data.feature_zip import FeatureZip  # noqa: E402
from echostream_plugin.inference.features import features_of  # noqa: E402
from echostream_plugin.vocoder import CodeHiFiGAN, VocoderConfig  # noqa: E402
from echostream_plugin.vocoder.codehifigan import duration_params  # noqa: E402
from tests.fairseq_ext.miniature import ROOT, SOURCE, TARGET, WORDS, run_cli  # noqa: E402
from tests.tiny_bundle import speechlike, write_dictionary  # noqa: E402

UNITS = 1000
TASK = {
    "--user-dir": str(ROOT / "echostream_plugin"),
    "--config-yaml": "config_gcmvn.yaml",
    "--multitask-config-yaml": "config_mtl_asr_st_ctcst.yaml",
    "--task": "speech_to_speech_ctc",
    "--target-is-code": None,
    "--target-code-size": UNITS,
    "--vocoder": "code_hifigan",
}
RECIPE = TASK | {
    "--criterion": "speech_to_unit_2pass_ctc_asr_st", "--label-smoothing": 0.1, "--rdrop-alpha": 0.0,
    "--share-decoder-input-output-embed": None,
    "--encoder-layers": 12, "--encoder-embed-dim": 256, "--encoder-ffn-embed-dim": 2048,
    "--encoder-attention-heads": 4, "--translation-decoder-layers": 4, "--synthesizer-encoder-layers": 2,
    "--decoder-layers": 2, "--decoder-embed-dim": 512, "--decoder-ffn-embed-dim": 2048,
    "--decoder-attention-heads": 8, "--k1": 0, "--k2": 0, "--n1": 1, "--n2": -1,
    "--dropout": 0.1, "--attention-dropout": 0.1, "--relu-dropout": 0.1,
    "--train-subset": "train", "--valid-subset": "dev", "--ctc-upsample-rate": 25,
    "--validate-interval": 1000, "--validate-interval-updates": 1000,
    "--save-interval": 1, "--save-interval-updates": 1000, "--keep-last-epochs": 15,
    "--no-progress-bar": None, "--log-format": "json", "--log-interval": 100,
    "--lr": 0.001, "--lr-scheduler": "inverse_sqrt", "--warmup-init-lr": 1e-7, "--warmup-updates": 10000,
    "--optimizer": "adam", "--adam-betas": "(0.9,0.98)", "--clip-norm": 1.0,
    "--max-tokens": 22000, "--max-target-positions": 1200, "--update-freq": 2,
    "--attn-type": "espnet", "--pos-enc-type": "rel_pos", "--keep-interval-updates": 40,
    "--keep-best-checkpoints": 20, "--seed": 1, "--fp16": None, "--num-workers": 8,
}  # fmt: skip
SCRIPTS = {
    "simul": RECIPE | {"--chunk-size": 8, "--multichunk": None, "--uni-encoder": None},
    "offline": RECIPE | {"--chunk-size": 999999},
}
SMALL = {
    "--encoder-layers": 2, "--encoder-embed-dim": 16, "--encoder-ffn-embed-dim": 32, "--encoder-attention-heads": 2,
    "--translation-decoder-layers": 1, "--synthesizer-encoder-layers": 1, "--decoder-layers": 1,
    "--decoder-embed-dim": 16, "--decoder-ffn-embed-dim": 32, "--decoder-attention-heads": 2, "--num-workers": 0,
    "--max-update": 2,
}  # fmt: skip
PREDICT = TASK | {
    "--gen-subset": "test", "--beam-mt": 1, "--beam": 1, "--max-len-a": 1, "--max-tokens": 10000,
    "--required-batch-size-multiple": 1,
}  # fmt: skip
SPEECH_METRICS = (
    "AL AP DAL StartOffset EndOffset LAAL ATD NumChunks DiscontinuitySum DiscontinuityAve DiscontinuityNum RTF".split()
)
TEXT_METRICS = "AL AP DAL StartOffset EndOffset LAAL ATD NumChunks RTF".split()
AGENTS = {  # script -> agent, target list, multitask yaml (which the first two scripts misname), quality, latency
    "simul-s2st": ("echostream_agent", "target", "config_unity_asr_st_ctcst.yaml", "ASR_BLEU", SPEECH_METRICS),
    "simul-s2tt": ("echostream_s2tt_agent", "target", "config_unity_asr_st_ctcst.yaml", "BLEU", TEXT_METRICS),
    "streaming-asr": ("echostream_asr_agent", "src", "config_mtl_asr_st_ctcst.yaml", "BLEU", TEXT_METRICS),
}


def command(flags: dict, **changes) -> list[str]:
    flags = flags | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return [str(part) for flag, value in flags.items() for part in (flag, value) if part is not None]


@pytest.fixture(scope="module")
def cvss(tmp_path_factory):
    """`cvss-c/fr-en` as StreamSpeech's preparation leaves it: zip, absolute paths, references, SimulEval's lists; and
    `vocoder`, a published unit vocoder's files."""
    root = tmp_path_factory.mktemp("cvss-c") / "fr-en"
    for folder in ("fbank2unit", "src_unigram6000", "tgt_unigram6000", "simuleval/test", "clips"):
        (root / folder).mkdir(parents=True)
    for side, pieces in (("src", SOURCE), ("tgt", TARGET)):
        write_dictionary(root / f"{side}_unigram6000" / "spm_unigram_fr.txt", pieces)
    features = FeatureZip(root / "src_fbank80.zip")
    for split, count in (("train", 6), ("dev", 2), ("test", 3)):
        write_split(root, split, count, features)
    features.close()
    np.savez(root / "gcmvn.npz", mean=np.full(80, 10, np.float32), std=np.full(80, 4, np.float32))
    write_yamls(root)
    write_vocoder(root.parent / "vocoder")
    return root


def write_split(root: Path, split: str, count: int, features: FeatureZip) -> None:
    data, generator = root / "fbank2unit", np.random.default_rng(len(split))
    rows = ["id\tsrc_audio\tsrc_n_frames\tsrc_text\ttgt_text\ttgt_audio\ttgt_n_frames"]
    tables, lists = {"src": ["id\ttgt_text"], "tgt": ["id\ttgt_text"]}, {"src": [], "txt": [], "unit": [], "wav": []}
    for number in range(count):
        name = f"common_voice_fr_{split}{number}"
        samples = speechlike(1.2 + 0.3 * number, 48000, seed=number)
        if split == "test":
            lists["wav"].append(str(root / "clips" / f"{name}.mp3"))
            soundfile.write(lists["wav"][-1], samples, 48000, format="MP3")
        entry = features.add(name, features_of(samples, 48000, np.zeros(80), np.ones(80)))
        words = [WORDS[word] for word in generator.integers(0, 4, 2)]
        source, target = (" ".join(word[side] for word in words) for side in (0, 1))
        units = " ".join(map(str, generator.integers(0, UNITS, 10 + number)))
        zipped = f"{features.path}:{entry['offset']}:{entry['size']}\t{entry['frames']}"
        texts = [text.replace(" ", "").replace("▁", " ").strip() for text in (source, target)]
        rows.append(f"{name}\t{zipped}\t{texts[0]}\t{texts[1]}\t{units}\t{10 + number}")
        for side, pieces in (("src", source), ("tgt", target)):
            tables[side].append(f"{name}\t{pieces}")
        for kind, line in (("src", texts[0]), ("txt", texts[1]), ("unit", units)):
            lists[kind].append(line)
    write_lines(data / f"{split}.tsv", rows)
    for side, table in tables.items():
        write_lines(root / f"{side}_unigram6000" / f"{split}.tsv", table)
    for kind in ("src", "txt", "unit"):
        write_lines(data / f"{split}.{kind}", lists[kind])
    if split == "test":
        for name, kind in (("wav_list", "wav"), ("target", "txt"), ("src", "src")):
            write_lines(root / "simuleval" / "test" / f"{name}.txt", lists[kind])


def write_lines(path: Path, lines) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_yamls(root: Path) -> None:
    """With StreamSpeech's keys, those included that are not read here."""
    data = {
        "global_cmvn": {"stats_npz_path": str(root / "gcmvn.npz")},
        "input_channels": 1,
        "input_feat_per_channel": 80,
        "specaugment": {
            "freq_mask_F": 27, "freq_mask_N": 1, "time_mask_N": 1, "time_mask_T": 100, "time_mask_p": 1.0,
            "time_wrap_W": 0,
        },
        "transforms": {"*": ["global_cmvn"], "_train": ["global_cmvn", "specaugment"]},
        "vocoder": {"checkpoint": "/data/elsewhere/g_00500000", "config": "/data/elsewhere/config.json", "type": "x"},
    }  # fmt: skip
    decoder = {"decoder_embed_dim": 512, "decoder_ffn_embed_dim": 32, "decoder_attention_heads": 8}
    tasks = {}
    for name, side, kind, layers, weight in (
        ("target_unigram", "tgt", "transformer", 4, 8.0),
        ("source_unigram", "src", "ctc", 0, 4.0),
        ("ctc_target_unigram", "tgt", "ctc", 0, 4.0),
    ):
        folder = root / f"{side}_unigram6000"
        tasks[name] = {
            "decoder_type": kind, "dict": str(folder / "spm_unigram_fr.txt"), "data": str(folder),
            "loss_weight": weight, "rdrop_alpha": 0.0, "decoder_args": {"decoder_layers": layers, **decoder},
            "label_smoothing": 0.1,
        }  # fmt: skip
    for name, content in (("config_gcmvn", data), ("config_mtl_asr_st_ctcst", tasks)):
        (root / "fbank2unit" / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def write_vocoder(folder: Path) -> None:
    folder.mkdir()
    config = {
        "num_embeddings": UNITS, "embedding_dim": 8, "model_in_dim": 8, "upsample_rates": [5, 4, 4, 2, 2],
        "upsample_kernel_sizes": [11, 8, 8, 4, 4], "upsample_initial_channel": 32, "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3, 5]], "dur_predictor_params": duration_params(8),
    }  # fmt: skip
    torch.manual_seed(0)
    model = CodeHiFiGAN(VocoderConfig.from_dict(config))
    torch.save({"generator": model.state_dict()}, folder / "g_00500000")
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def train(cvss, tmp_path_factory):
    """Runs a train script once for every architecture; the checkpoint."""
    done = {}

    def train(script: str, arch: str) -> Path:
        if (script, arch) not in done:
            folder = tmp_path_factory.mktemp(f"{script}-{arch}")
            flags = command(SCRIPTS[script] | SMALL, arch=arch, save_dir=folder)
            run_cli("fairseq_cli.train", [str(cvss / "fbank2unit"), *flags])
            done[script, arch] = folder / "checkpoint_last.pt"
        return done[script, arch]

    return train


@pytest.mark.parametrize("arch", ["streamspeech", "echostream"])
@pytest.mark.parametrize("script", ["simul", "offline"])
def test_train(train, caplog, script, arch):
    """Both train scripts take all their flags; half precision without a GPU is said and left out."""
    checkpoint = torch.load(train(script, arch), weights_only=False)
    assert checkpoint["optimizer_history"][-1]["num_updates"] == 2
    options = checkpoint["cfg"]["model"]
    assert options.arch == arch and options.chunk_size == SCRIPTS[script]["--chunk-size"]
    assert torch.cuda.is_available() or not options.fp16


@pytest.mark.parametrize("arch", ["streamspeech", "echostream"])
def test_predict(cvss, train, tmp_path, capsys, arch):
    """pred.offline-s2st.sh down to the waves: its greps find a line for every utterance."""
    checkpoint = train("offline", arch)
    results, vocoder = tmp_path / "res", cvss.parent / "vocoder"
    capsys.readouterr()
    flags = command(PREDICT, path=checkpoint, results_path=results, max_len_b_mt=8, num_workers=0)
    run_cli("fairseq_cli.generate", [str(cvss / "fbank2unit"), *flags])
    (results / "generate-test.log").write_text("".join(capsys.readouterr()), encoding="utf-8")
    texts = {kind: grep(results / "generate-test.log", f"^{kind}-", "sort -t- -k2,2n | cut -f2") for kind in "AD"}
    assert len(texts["A"]) == len(texts["D"]) == 3 and any(texts["A"]) and any(texts["D"])
    units = grep(results / "generate-test.txt", "^D-", "sed 's/^D-//' | sort -nk1 | cut -f3")
    assert len(units) == 3 and all(0 <= int(unit) < UNITS for line in units for unit in line.split())
    write_lines(results / "generate-test.unit", [line or "0" for line in units])  # fairseq's vocoder fails on none
    run_cli(
        "fairseq.examples.speech_to_speech.generate_waveform_from_code",
        ["--in-code-file", str(results / "generate-test.unit"), "--vocoder", str(vocoder / "g_00500000"),
         "--vocoder-cfg", str(vocoder / "config.json"), "--results-path", str(results / "wav"), "--dur-prediction"],
    )  # fmt: skip
    assert all(soundfile.info(results / "wav" / f"{number}_pred.wav").frames for number in range(3))


def grep(path: Path, pattern: str, then: str) -> list[str]:
    done = subprocess.run(f"grep '{pattern}' '{path}' | {then}", shell=True, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture
def evaluate(cvss, monkeypatch, tmp_path):
    """Runs a simuleval script; (scores by name, predictions)."""

    def evaluate(script: str, checkpoint: Path, **changes):
        agent, target, multitask, quality, latency = AGENTS[script]
        lists, vocoder, output = cvss / "simuleval" / "test", cvss.parent / "vocoder", tmp_path / "chunk_size=960"
        flags = {
            "--data-bin": cvss / "fbank2unit", "--user-dir": ROOT / "agent",
            "--source": lists / "wav_list.txt", "--target": lists / f"{target}.txt", "--model-path": checkpoint,
            "--config-yaml": "config_gcmvn.yaml", "--multitask-config-yaml": multitask,
            "--agent": ROOT / "agent" / f"{agent}.py", "--output": output, "--source-segment-size": 960,
            "--quality-metrics": quality, "--device": "gpu", "--computation-aware": None,
        }  # fmt: skip
        if script == "simul-s2st":
            flags |= {
                "--user-dir": ROOT / "echostream_plugin", "--agent-dir": ROOT / "agent",
                "--vocoder": vocoder / "g_00500000", "--vocoder-cfg": vocoder / "config.json",
                "--dur-prediction": None, "--target-speech-lang": "en",
            }  # fmt: skip
        argv = ["simuleval", *command(flags, **changes), "--latency-metrics", *latency]
        simuleval_agent.EVALUATION_SYSTEM_LIST.clear()
        device_name.cache_clear()  # its warning comes once
        monkeypatch.setattr(sys, "argv", argv)
        simuleval.cli.main()
        scores = pandas.read_csv(output / "scores.tsv", sep="\t").iloc[0].to_dict()
        return scores, [json.loads(line) for line in (output / "instances.log").read_text().splitlines()]

    return evaluate


def talkative(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint with louder weights and likelier blanks: after two updates alone it would say the same at every
    push, and nothing before the end."""
    content = torch.load(checkpoint, weights_only=False)
    for name, tensor in content["model"].items():
        if tensor.dim() > 1 and "embed" not in name:
            tensor.mul_(3.0)
    content["model"]["source_unigram_decoder.proj.bias"][0] += 1.0
    content["model"]["ctc_target_unigram_decoder.proj.bias"][0] += 1.0
    torch.save(content, folder / "talkative.pt")
    return folder / "talkative.pt"


@pytest.mark.parametrize(
    "script, arch",
    [("simul-s2st", "streamspeech"), ("simul-s2st", "echostream"), ("simul-s2tt", "streamspeech"),
     ("streaming-asr", "echostream")],
)  # fmt: skip
def test_simuleval(train, evaluate, tmp_path, caplog, capsys, script, arch):
    """The three simuleval scripts: every metric that they ask for has a value, plain and computation-aware."""
    scores, instances = evaluate(script, talkative(train("simul", arch), tmp_path), max_len=8)
    _, _, multitask, quality, latency = AGENTS[script]
    assert set(scores) == {quality, *latency, *(f"{name}_CA" for name in latency)}
    assert all(np.isfinite(list(scores.values())))
    assert scores["StartOffset_CA"] > scores["StartOffset"] and scores["AL_CA"] > scores["AL"]
    assert len(instances) == 3 and any(instance["delays"] for instance in instances)
    said = caplog.text + capsys.readouterr().err
    assert ("takes config_mtl_asr_st_ctcst.yaml" in said) == (multitask == "config_unity_asr_st_ctcst.yaml")
    assert torch.cuda.is_available() or "running on the CPU" in said
