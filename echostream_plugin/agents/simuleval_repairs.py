"""What SimulEval needs so that StreamSpeech's evaluation scripts run to their end, whichever SimulEval is installed.

SimulEval 1.1.4, the last release, scores what it reads back from its own log. Spoken output has lost there what
`--computation-aware` and the Discontinuity metrics need (they end in an exception), and ATD and RTF take it for text;
with `--computation-aware` the plain columns are computation-aware too. StreamSpeech's own copy (1.1.0, changed) has
none of these faults, but joins written words without spaces, since its agents write subwords.
"""

from simuleval.evaluator import SentenceLevelEvaluator
from simuleval.evaluator.instance import LogInstance, TextOutputInstance
from simuleval.evaluator.scorers.latency_scorer import LatencyScorer


def repair() -> None:
    """Let SimulEval score what ran, and keep the plain columns plain; once or often is the same."""
    if getattr(SentenceLevelEvaluator.build_instances_from_log, "scores_what_ran", False):
        return
    read_log = SentenceLevelEvaluator.build_instances_from_log

    def build_instances_from_log(evaluator) -> None:
        ran = {i.index: i for i in evaluator.instances.values() if not isinstance(i, LogInstance) and has_run(i)}
        read_log(evaluator)
        evaluator.instances = {key: ran.get(logged.index, logged) for key, logged in evaluator.instances.items()}

    build_instances_from_log.scores_what_ran = True
    SentenceLevelEvaluator.build_instances_from_log = build_instances_from_log
    # the evaluator makes the computation-aware scorers itself, without from_args
    LatencyScorer.from_args = classmethod(lambda cls, args: cls(use_ref_len=not args.no_use_ref_len))


def has_run(instance) -> bool:
    """Whether an instance has heard its whole source."""
    return getattr(instance, "source_finished_reading", instance.finish_prediction)


def joins_subwords() -> bool:
    """Whether this SimulEval joins what a text agent writes without spaces, taking `▁` for them."""
    instance = object.__new__(TextOutputInstance)
    instance.prediction_list, instance.latency_unit = ["a", "b"], "word"
    return instance.prediction == "ab"
