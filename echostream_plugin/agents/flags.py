"""The flags of the agents: StreamSpeech's, and those of the session options."""

import argparse
from dataclasses import fields

from echostream_plugin.cli_options import DEFAULT_BUNDLE, add_option_flags, add_quantize_flag
from echostream_plugin.inference.endpointing import ENDPOINTERS
from echostream_plugin.inference.options import SessionOptions

# session options that are no flags here: with names or defaults of StreamSpeech's agents, set by the agent's class, and
# those of long streams, for a SimulEval recording is one utterance
OTHERWISE = ("chunk_ms", "max_tokens", "translate", "speech") + (
    *("pause_ms", "endpointer", "longest_sentence_ms", "fresh_encoder", "context_tokens", "resynthesize"),
    *(f.name for endpointer in ENDPOINTERS.values() if endpointer.Options for f in fields(endpointer.Options)),
)

# flags of StreamSpeech's agents that its scripts pass and that change nothing: there they do nothing either, or the
# model, the bundle and SimulEval's segments say it
WITHOUT_EFFECT = {
    "--global-stats": "the feature statistics come with the model",
    "--tgt-splitter-type": "the dictionary says it",
    "--tgt-splitter-path": "the dictionary says it",
    "--agent-dir": "agents import the installed package",
    "--user-dir": "the package registers itself",
    "--shift-size": "features are 10 ms apart",
    "--window-size": "of 25 ms",
    "--sample-rate": "the rate of the audio itself counts",
    "--feature-dim": "80",
    "--segment-size": "SimulEval's --source-segment-size counts",
    "--unit-per-subword": "the model says it",
}


def truth(text: str) -> bool:
    """A boolean flag's value; `type=bool` would take the word False for true."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"'{text}': use true or false")
    return values[text.lower()]


def add_flags(parser: argparse.ArgumentParser):
    """StreamSpeech's flags, and --bundle."""
    model = parser.add_argument_group("EchoStream: model (a bundle, or a fairseq checkpoint with its data folder)")
    model.add_argument("--bundle", default=None, help=f"bundle folder (default: {DEFAULT_BUNDLE})")
    model.add_argument("--model-path", default=None, help="fairseq checkpoint of this plugin, in place of a bundle")
    model.add_argument("--data-bin", default=None, help="data folder of --model-path")
    model.add_argument("--config-yaml", default="config_gcmvn.yaml", help="data config in --data-bin")
    model.add_argument(
        "--multitask-config-yaml", default="config_mtl_asr_st_ctcst.yaml", help="multitask config in --data-bin"
    )
    model.add_argument("--vocoder", default=None, help="unit vocoder checkpoint, or a vocoder folder of this project")
    model.add_argument("--vocoder-cfg", default=None, help="config.json of a vocoder checkpoint")
    add_quantize_flag(model)
    model.add_argument("--dur-prediction", action="store_true", help="accepted; durations are always predicted")
    policy = parser.add_argument_group("EchoStream: policy (counts are subwords; default: the bundle's, else k 0, n 1)")
    segment = "encoder segment in ms (default: the bundle's, else the source segment size)"
    policy.add_argument("--chunk-ms", type=int, help=segment)
    policy.add_argument("--max-len", type=int, dest="max_tokens", help="most tokens added at the end of the source")
    add_option_flags(policy, SessionOptions, leave=OTHERWISE, truth=truth)
    policy.add_argument("--force-finish", action="store_true", help="accepted; the source always ends the translation")
    output = parser.add_argument_group("EchoStream: output")
    output.add_argument("--extra-output-dir", default=None, help="folder for events.jsonl, asr.txt, st.txt, unit.txt")
    output.add_argument(
        "--output-asr-translation", type=truth, default=False, help="print transcript and translation as they grow"
    )
    known = {name for action in parser._actions for name in action.option_strings}
    for flag, reason in WITHOUT_EFFECT.items():
        if flag not in known:  # SimulEval itself has --user-dir
            output.add_argument(flag, default=None, help=f"accepted without effect: {reason}")
