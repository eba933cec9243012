"""`--arch streamspeech` is StreamSpeech: what the original code computed with these weights, ours computes.

The data hold a small StreamSpeech with random weights, its inputs and outputs, losses and translations (`expected.json`
says with which flags), and the names and shapes of the published size.
"""

import json

import pytest
import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from echostream_plugin.config import ConfigError
from echostream_plugin.model import WaitKLags
from tests.fairseq_ext.miniature import ROOT

DATA = ROOT / "tests" / "data"
PARITY = DATA / "streamspeech_parity"
CHUNKS = (8, 16, 99999)
WAITS = {"offline": WaitKLags(text=False, n2=None), "k0n1": WaitKLags(0, 1, 0, 2), "k1n2": WaitKLags(1, 2, 1, 1)}
PAD = 1
FULL_SIZE = (  # of StreamSpeech's train.simul-s2st.sh
    "--task speech_to_speech_ctc --target-is-code --target-code-size 1000 --vocoder code_hifigan "
    "--criterion speech_to_unit_2pass_ctc_asr_st --label-smoothing 0.1 --rdrop-alpha 0.0 "
    "--arch streamspeech --share-decoder-input-output-embed "
    "--encoder-layers 12 --encoder-embed-dim 256 --encoder-ffn-embed-dim 2048 --encoder-attention-heads 4 "
    "--translation-decoder-layers 4 --synthesizer-encoder-layers 2 "
    "--decoder-layers 2 --decoder-embed-dim 512 --decoder-ffn-embed-dim 2048 --decoder-attention-heads 8 "
    "--k1 0 --k2 0 --n1 1 --n2 -1 --chunk-size 8 --multichunk --uni-encoder "
    "--dropout 0.1 --attention-dropout 0.1 --relu-dropout 0.1 --train-subset train --valid-subset dev "
    "--ctc-upsample-rate 25 --validate-interval 1000 --validate-interval-updates 1000 "
    "--save-interval 1 --save-interval-updates 1000 --keep-last-epochs 15 --no-progress-bar --log-format json "
    "--log-interval 100 --lr 0.001 --lr-scheduler inverse_sqrt --warmup-init-lr 1e-7 --warmup-updates 10000 "
    "--optimizer adam --adam-betas (0.9,0.98) --clip-norm 1.0 --max-tokens 22000 --max-target-positions 1200 "
    "--update-freq 2 --attn-type espnet --pos-enc-type rel_pos --keep-interval-updates 40 "
    "--keep-best-checkpoints 20 --seed 1 --fp16 --num-workers 8 "
    "--config-yaml config_gcmvn.yaml --multitask-config-yaml config_mtl_asr_st_ctcst.yaml"
).split()


def build(data, flags):
    arguments = [str(data), "--user-dir", str(ROOT / "echostream_plugin"), *flags]
    args = options.parse_args_and_arch(options.get_training_parser("speech_to_speech_ctc"), arguments)
    task = tasks.setup_task(args)
    return args, task, task.build_model(args)


@pytest.fixture(scope="module")
def expected():
    return json.loads((PARITY / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def io():
    return torch.load(PARITY / "io.pt", weights_only=True)


@pytest.fixture(scope="module")
def original(expected):
    """(args, task, model) from StreamSpeech's flags, with the original's weights."""
    flags = [flag for flag in expected["flags"] if flag not in ("DATA", "--user-dir", "USER_DIR")]
    args, task, model = build(PARITY / "data", flags)
    model.load_state_dict(torch.load(PARITY / "state_dict.pt", weights_only=True), strict=True)
    return args, task, model.eval()


@pytest.fixture(scope="module")
def model(original):
    yield original[2]
    original[2].encoder.set_chunk_size(8)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def set_chunk(model, chunk):
    model.encoder.set_chunk_size(chunk, 8 if chunk < 16 else 16)


def close(actual, wanted):
    torch.testing.assert_close(actual, wanted, atol=1e-4, rtol=0)


def test_names_of_the_weights_are_the_originals(model):
    assert set(model.state_dict()) == set(torch.load(PARITY / "state_dict.pt", weights_only=True))


def test_marks_of_older_fairseq_versions_do_not_disturb(original):
    _, task, model = original
    state = {**model.state_dict(), "decoder.embed_positions._float_tensor": torch.zeros(1)}
    del state["target_unigram_decoder.version"]
    model.load_state_dict(state, strict=True)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_encoder_and_ctc_heads_agree(model, io, chunk):
    set_chunk(model, chunk)
    encoded, lengths = model.encoder(io["src_tokens"], io["src_lengths"])
    close(encoded, io[f"encoder_out.chunk{chunk}"].transpose(0, 1))
    assert lengths.tolist() == (~io[f"encoder_padding_mask.chunk{chunk}"]).sum(1).tolist()
    close(model.source_unigram_decoder(encoded, lengths), io[f"asr_logits.chunk{chunk}"].transpose(0, 1))
    close(model.ctc_target_unigram_decoder(encoded, lengths), io[f"st_logits.chunk{chunk}"].transpose(0, 1))


def test_the_encoder_answers_as_fairseqs_models_do(model, io):
    set_chunk(model, 8)
    output = model.forward_encoder(io["src_tokens"], src_lengths=io["src_lengths"])
    close(output["encoder_out"][0], io["encoder_out.chunk8"])
    assert torch.equal(output["encoder_padding_mask"][0], io["encoder_padding_mask.chunk8"])


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("chunk", CHUNKS)
def test_mt_and_unit_logits_agree(model, io, chunk, wait):
    set_chunk(model, chunk)
    tokens = io["prev_output_tokens_mt"]
    output = model(io["src_tokens"], io["src_lengths"], tokens, WAITS[wait])
    real = tokens.ne(PAD)
    close(output.mt_logits[real], io[f"mt_logits.chunk{chunk}.{wait}"][real])
    frames = ~io[f"unit_padding_mask.chunk{chunk}.{wait}"]
    assert output.unit_lengths.tolist() == frames.sum(1).tolist()
    close(output.unit_logits[frames], io[f"unit_logits.chunk{chunk}.{wait}"][frames])


def batch(io):
    text = {"net_input": {"prev_output_tokens": io["prev_output_tokens_mt"]}, "target": io["target_mt"]}
    counts = {name: int(io[key].ne(PAD).sum()) for name, key in (("mt", "target_mt"), ("asr", "target_asr"))}
    st = io["target_mt"].masked_fill(io["target_mt"].eq(2), PAD)
    return {
        "id": torch.arange(2),
        "net_input": {"src_tokens": io["src_tokens"], "src_lengths": io["src_lengths"]},
        "target": io["units"],
        "ntokens": int(io["units"].ne(PAD).sum()),
        "multitask": {
            "target_unigram": {**text, "ntokens": counts["mt"]},
            "source_unigram": {"target": io["target_asr"], "ntokens": counts["asr"]},
            "ctc_target_unigram": {"target": st, "ntokens": int(st.ne(PAD).sum())},
        },
    }


def test_losses_agree(original, model, io, expected):
    args, task, _ = original
    set_chunk(model, 8)
    criterion = task.build_criterion(convert_namespace_to_omegaconf(args).criterion).eval()
    loss, sample_size, logging = criterion(model, batch(io))
    results = expected["results"]
    assert sample_size == results["sample_size"]
    assert loss.item() == pytest.approx(results["loss"], rel=1e-5)
    for name, stored in results["logging"]["multitask"].items():
        assert logging[f"{name}_loss"].item() == pytest.approx(stored["loss"], rel=1e-5), name
        assert criterion.loss_weights[name] == stored["loss_weight"]
        assert logging[f"{name}_ntokens"] == stored["ntokens"]


def test_offline_translation_agrees(original, model, io, expected, capsys):
    args, task, _ = original
    set_chunk(model, 8)
    args.beam_mt, args.max_len_a_mt, args.max_len_b_mt = 1, 0, 20
    hypotheses = task.build_generator([model], args).generate([model], batch(io))
    results = expected["results"]
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(results["generate_stdout"].splitlines())
    assert [hypothesis[0]["tokens"].tolist() for hypothesis in hypotheses] == results["generate_units"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The data folder of the published models, as far as the model's shape goes: two dictionaries of 6000."""
    folder = tmp_path_factory.mktemp("published")
    for name in ("src", "tgt"):
        (folder / f"{name}.txt").write_text("".join(f"▁{name}{i} 1\n" for i in range(5996)), encoding="utf-8")
    for name in ("config_gcmvn.yaml", "gcmvn.npz"):
        (folder / name).write_bytes((PARITY / "data" / name).read_bytes())
    name = "config_mtl_asr_st_ctcst.yaml"
    text = (PARITY / "data" / name).read_text()
    (folder / name).write_text(text.replace("decoder_ffn_embed_dim: 64", "decoder_ffn_embed_dim: 2048"))
    return folder


def test_full_size_has_the_published_names_and_shapes(published):
    lines = (DATA / "streamspeech_state_dict.txt").read_text().splitlines()
    listed = dict(line.split(" ", 1) for line in lines)
    _, _, model = build(published, FULL_SIZE)
    assert {name: str(tuple(tensor.shape)) for name, tensor in model.state_dict().items()} == listed


@pytest.mark.parametrize(
    "flag, value", [("--attn-type", "fairseq"), ("--pos-enc-type", "rope"), ("--conv-kernel-sizes", "3,3")]
)
def test_other_variants_of_the_encoder_are_refused(expected, flag, value):
    flags = [flag for flag in expected["flags"] if flag not in ("DATA", "--user-dir", "USER_DIR")]
    with pytest.raises(ConfigError, match=flag):
        build(PARITY / "data", [*flags, flag, value])


def test_a_unit_decoder_with_time_positions_ignores_the_place_in_the_batch(expected, io):
    """The positions over the batch are for published weights; a model trained anew can have positions over time."""
    flags = [flag for flag in expected["flags"] if flag not in ("DATA", "--user-dir", "USER_DIR")]
    torch.manual_seed(0)
    _, _, model = build(PARITY / "data", [*flags, "--unit-time-positions", "--no-unit-batch-positions"])
    model.eval()
    features, lengths = io["src_tokens"][:1].repeat(2, 1, 1), io["src_lengths"][:1].repeat(2)
    output = model(features, lengths, io["prev_output_tokens_mt"][:1].repeat(2, 1))
    close(output.unit_logits[0], output.unit_logits[1])


def test_a_checkpoint_of_streamspeech_becomes_a_bundle(original, tmp_path):
    """A file as fairseq-train of StreamSpeech saves it: options in a Namespace, weights with fairseq's marks."""
    from echostream_plugin.fairseq_ext.loading import export_bundle, load_checkpoint_bundle
    from echostream_plugin.inference.bundle import load_bundle

    args, _, model = original
    args = type(args)(**{key: value for key, value in vars(args).items() if not key.startswith("unit_")})
    path = tmp_path / "checkpoint.pt"
    torch.save({"args": None, "cfg": {"model": args}, "model": model.state_dict()}, path)
    bundle = load_checkpoint_bundle(path)
    again = load_bundle(export_bundle(tmp_path / "bundle", path))
    assert bundle.config == again.config and bundle.config.encoder.kind == "chunk_conformer"
    features = torch.randn(1, 100, 80)
    encoded, reread = (b.model.encoder(features, torch.tensor([100]), 8)[0] for b in (bundle, again))
    close(encoded, model.encoder(features, torch.tensor([100]), 8)[0])
    assert (encoded - reread).abs().max() < 0.05  # half precision
