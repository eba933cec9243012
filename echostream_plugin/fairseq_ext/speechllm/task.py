"""The task `speech_to_text_chunks`: the data of `speech_to_speech_ctc` with one of its texts as the target."""

from fairseq import criterions
from fairseq.tasks import register_task

from echostream_plugin.config import ConfigError
from echostream_plugin.decoders.speechllm.config import TEXTS
from echostream_plugin.fairseq_ext.alignable import require_subword_frames
from echostream_plugin.fairseq_ext.speechllm.generator import ChunkGenerator
from echostream_plugin.fairseq_ext.speechllm.model import HEADS, encoder_of_architecture
from echostream_plugin.fairseq_ext.task import SpeechToSpeechCTCTask


@register_task("speech_to_text_chunks")
class SpeechToTextChunksTask(SpeechToSpeechCTCTask):
    """Speech to its transcript or its translation, written in chunks. Manifests, multitask tables and yamls are those
    of `speech_to_speech_ctc`; units are not read."""

    @classmethod
    def add_args(cls, parser):
        super().add_args(parser)
        parser.add_argument(
            "--target", choices=TEXTS, default=TEXTS[0], help="which text is written: transcript or translation"
        )

    @classmethod
    def setup_task(cls, args, **kwargs):
        args.target_is_code, args.target_code_size = True, 0  # fairseq's task asks for units, or for spectrograms
        return super().setup_task(args, **kwargs)

    def __init__(self, args, tgt_dict, infer_tgt_lang_id=None):
        super().__init__(args, tgt_dict, infer_tgt_lang_id)
        self.features = encoder_of_architecture(getattr(args, "arch", None)).Config.features

    @property
    def text_task(self) -> str:
        """The CTC task of the multitask yaml whose text is written."""
        return HEADS[self.args.target]

    @property
    def target_dictionary(self):
        return self.multitask_tasks[self.text_task].target_dictionary

    def build_criterion(self, args):
        return criterions.build_criterion(args, self)

    def build_model(self, args, from_checkpoint=False):
        model = super().build_model(args, from_checkpoint)
        written = model.config.llm.target
        if written != self.args.target:
            raise ConfigError(f"--target {self.args.target}: the model was trained to write {written}")
        return model

    def read_split(self, split: str, **more):
        if self.text_task not in self.multitask_tasks:
            raise ConfigError(f"{self.args.multitask_config_yaml}: no task named {self.text_task}")
        return super().read_split(split, text_task=self.text_task, **more)

    def begin_epoch(self, epoch, model):
        """Called by fairseq-train. Before the first epoch: can CTC align the training set at all?"""
        dataset = self.datasets.get(getattr(self.args, "train_subset", "train"))
        if dataset is not None and not self._alignments_seen:
            self._alignments_seen = True
            require_subword_frames(dataset, model.encoder.output_lengths)

    def build_generator(self, models, args, seq_gen_cls=None, extra_gen_cls_kwargs=None):
        return ChunkGenerator(
            models,
            {name: task.target_dictionary for name, task in self.multitask_tasks.items()},
            beam=max(1, getattr(args, "beam", 1)),
        )
