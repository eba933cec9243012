"""A miniature StreamSpeech-format corpus whose features spell the text, and fairseq's command lines in-process."""

import importlib
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from fairseq import options, tasks

import echostream_plugin.fairseq_ext  # noqa: F401  another test may have imported the package without fairseq

ROOT = Path(__file__).parents[2]
SOURCE = ["▁uno", "▁dos", "▁tres", "▁cua", "tro"]
TARGET = ["▁one", "▁two", "▁three", "▁four"]
WORDS = [("▁uno", "▁one"), ("▁dos", "▁two"), ("▁tres", "▁three"), ("▁cua tro", "▁four")]
UNITS = 10
# of the features: far from 0 and 1, so that a normalisation that is left out or done twice is seen
MEAN, STD = np.linspace(-6, 9, 80, dtype=np.float32), np.linspace(0.4, 3, 80, dtype=np.float32)
TINY = (
    "--arch echostream_tiny --encoder-layers 2 --encoder-embed-dim 32 --encoder-ffn-embed-dim 64 "
    "--encoder-attention-heads 2 --subsampling-channels 4 --left-context-frames 8 --memory-size 2 "
    "--encoder-conv-kernel 5 --translation-decoder-layers 1 --decoder-layers 1 --decoder-embed-dim 32 "
    "--decoder-attention-heads 2 --decoder-ffn-embed-dim 64 --ctc-upsample-rate 6 --uni-encoder"
).split()
CRITERION = ["--criterion", "speech_to_unit_2pass_ctc_asr_st", "--label-smoothing", "0.1"]


def write_corpus(root: Path) -> Path:
    """Write train (12 utterances) and dev (4), features as npy files; the data folder."""
    data = root / "fbank2unit"
    for folder in (data, root / "src_unigram", root / "tgt_unigram", root / "features"):
        folder.mkdir()
    (root / "src_unigram" / "dict.txt").write_text("".join(f"{piece} 1\n" for piece in SOURCE), encoding="utf-8")
    (root / "tgt_unigram" / "dict.txt").write_text("".join(f"{piece} 1\n" for piece in TARGET), encoding="utf-8")
    generator = np.random.default_rng(0)
    np.savez(root / "gcmvn.npz", mean=MEAN, std=STD)
    for split, count in (("train", 12), ("dev", 4)):
        manifest = ["id\tsrc_audio\tsrc_n_frames\tsrc_text\ttgt_text\ttgt_audio\ttgt_n_frames"]
        texts = {"src_unigram": ["id\ttgt_text"], "tgt_unigram": ["id\ttgt_text"]}
        for i in range(count):
            words = generator.integers(0, 4, 2 + i % 3)
            features = np.concatenate([_spoken(word, generator) for word in words])
            np.save(root / "features" / f"{split}_{i}.npy", features * STD + MEAN)
            units = " ".join(str(unit) for word in words for unit in (2 * word, 2 * word + 1))
            source, target = (" ".join(WORDS[word][side] for word in words) for side in (0, 1))
            audio = f"../features/{split}_{i}.npy\t{len(features)}"
            manifest.append(f"{split}_{i}\t{audio}\t{source}\t{target}\t{units}\t{2 * len(words)}")
            texts["src_unigram"].append(f"{split}_{i}\t{source}")
            texts["tgt_unigram"].append(f"{split}_{i}\t{target}")
        (data / f"{split}.tsv").write_text("\n".join(manifest) + "\n", encoding="utf-8")
        for folder, rows in texts.items():
            (root / folder / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    _write_yamls(data)
    return data


def _write_yamls(data: Path):
    specaugment = {"freq_mask_F": 8, "freq_mask_N": 1, "time_mask_N": 1, "time_mask_T": 8, "time_mask_p": 1.0}
    config = {
        "global_cmvn": {"stats_npz_path": "../gcmvn.npz"},
        "input_channels": 1,
        "input_feat_per_channel": 80,
        "specaugment": {**specaugment, "time_wrap_W": 0},
        "transforms": {"*": ["global_cmvn"], "_train": ["global_cmvn", "specaugment"]},
    }
    (data / "config_gcmvn.yaml").write_text(yaml.safe_dump(config))
    text = {"dict": "../tgt_unigram/dict.txt", "data": "../tgt_unigram"}
    tasks = {
        "target_unigram": {
            "decoder_type": "transformer",
            **text,
            "loss_weight": 8.0,
            "label_smoothing": 0.1,
            "decoder_args": {"decoder_ffn_embed_dim": 64},
        },
        "source_unigram": {
            "decoder_type": "ctc",
            "dict": "../src_unigram/dict.txt",
            "data": "../src_unigram",
            "loss_weight": 4.0,
        },
        "ctc_target_unigram": {"decoder_type": "ctc", **text, "loss_weight": 4.0},
    }
    (data / "config_mtl.yaml").write_text(yaml.safe_dump(tasks, sort_keys=False))


def _spoken(word: int, generator) -> np.ndarray:
    """48 frames: a band of energy that tells the word, then silence."""
    features = generator.normal(0, 0.1, (48, 80)).astype(np.float32)
    features[4:36, 20 * word : 20 * word + 20] += 3
    return features


def task_arguments(corpus: Path) -> list[str]:
    return [
        str(corpus), "--user-dir", str(ROOT / "echostream_plugin"), "--task", "speech_to_speech_ctc",
        "--config-yaml", "config_gcmvn.yaml", "--multitask-config-yaml", "config_mtl.yaml",
        "--target-is-code", "--target-code-size", str(UNITS), "--vocoder", "code_hifigan",
    ]  # fmt: skip


def train(corpus: Path, save_dir: Path, *extra: str, updates: int = 4) -> dict:
    """Run fairseq-train for `updates` updates; the last checkpoint's content."""
    run_cli(
        "fairseq_cli.train",
        [
            *task_arguments(corpus), *TINY, *CRITERION,
            "--dropout", "0.1", "--attention-dropout", "0.1", "--relu-dropout", "0.1",
            "--train-subset", "train", "--valid-subset", "dev", "--save-dir", str(save_dir), "--no-epoch-checkpoints",
            "--optimizer", "adam", "--lr", "0.003", "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "5",
            "--clip-norm", "1.0", "--max-tokens", "600", "--seed", "1", "--cpu", "--num-workers", "0",
            "--max-update", str(updates), "--log-format", "simple", *extra,
        ],
    )  # fmt: skip
    return torch.load(save_dir / "checkpoint_last.pt", map_location="cpu", weights_only=False)


def load_task(corpus: Path, *extra: str):
    """The task and its training set, with the model options of TINY in `task.args`."""
    parser = options.get_training_parser(default_task="speech_to_speech_ctc")
    args = options.parse_args_and_arch(parser, [*task_arguments(corpus), *TINY, *CRITERION, *extra])
    task = tasks.setup_task(args)
    task.load_dataset("train")
    return task, task.datasets["train"]


def run_cli(module: str, arguments: list[str]) -> None:
    """Call a fairseq command line in this process, as its console script would."""
    before = sys.argv
    sys.argv = [module, *arguments]
    try:
        importlib.import_module(module).cli_main()
    finally:
        sys.argv = before


def generate(data: Path, checkpoint, results):
    """fairseq-generate of the dev split, on the CPU."""
    arguments = [*task_arguments(data), "--path", str(checkpoint), "--gen-subset", "dev", "--max-tokens", "2000"]
    run_cli("fairseq_cli.generate", [*arguments, "--cpu", "--results-path", str(results)])
