"""Whisper's encoder is adapted to segments: a CTC head reads transcribed speech, and the features stay near those
of the frozen, unlimited Whisper, of speech without transcripts too.

L = CTC + w |h - t|^2 / |t|^2 over features h of the student and t of the teacher (`teacher`), which hears the same
recording without its masks (SpecAugment) and without limits.
Related: CarelessWhisper (arXiv 2508.12301), U2 (arXiv 2012.05481).
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echostream_plugin.adaptation.characters import Characters, error_rates, normalise
from echostream_plugin.adaptation.speech import Batch, Batches, collate, in_batches, load
from echostream_plugin.adaptation.teacher import WhisperTeacher, relative_distance
from echostream_plugin.config import ConfigError, check_options, option
from echostream_plugin.constants import FRAME_MS
from echostream_plugin.data.whisper_weights import load_whisper_encoder, save_adapted
from echostream_plugin.encoders.whisper import WhisperConfig, WhisperEncoder
from echostream_plugin.files import whole_file, write_text
from echostream_plugin.modules.seeded_training import seed_update
from echostream_plugin.modules.training_attention import quick_attention

FLOOR = -0.625  # of the features, what masked bins get
LAST = "last.pt"


@dataclass(frozen=True)
class AdaptOptions:
    """How an encoder is adapted; times of segments in ms are multiples of 40."""

    updates: int = option(2000, "updates of the training")
    batch_s: float = option(48.0, "seconds of transcribed speech in an update, padding included")
    others_s: float = option(16.0, "seconds of speech without transcripts in an update")
    encoder_lr: float = option(4e-5, "learning rate of the encoder at its highest")
    head_lr: float = option(2e-3, "learning rate of CTC head and projection at its highest")
    warmup: int = option(
        60, "updates until the learning rates are at their highest; they fall linearly to a tenth", minimum=0
    )
    weight_decay: float = option(0.01, "of AdamW")
    clip_norm: float = option(1.0, "gradients are cut to this norm")
    teacher_weight: float = option(2.0, "w, the weight of the distance to Whisper's features; 0: no teacher")
    chunk_ms: tuple = option((160, 320, 640, 960), "segments drawn for an update; 0 is the whole utterance")
    early_weight: float = option(0.0, "weight of the chance of letters before the first sound of a recording")
    frequency_mask: int = option(18, "SpecAugment: most mel bins of a mask, two masks", minimum=0, maximum=80)
    time_mask: int = option(30, "SpecAugment: most frames of 10 ms of a mask, two masks", minimum=0)
    dropout: float = option(0.0, "dropout of residual branches", maximum=1.0)
    bf16: bool = option(True, "matrix products in bfloat16, weights in float32")
    seed: int = option(1, "of every draw", minimum=0)
    save_every: int = option(50, "updates between two checkpoints")
    evaluate_every: int = option(200, "updates between two evaluations on the dev lists")

    def __post_init__(self):
        check_options(self)
        wrong = [ms for ms in self.chunk_ms if ms < 0 or ms % FRAME_MS]
        if wrong or not self.chunk_ms:
            raise ConfigError(f"chunk_ms {self.chunk_ms}: use multiples of {FRAME_MS} (0 is the whole utterance)")


def saved_letters(folder) -> Characters | None:
    """The letters of an unfinished run in a folder, None where there is none: lists may have grown since it began."""
    path = Path(folder) / LAST
    return Characters(torch.load(path, mmap=True, weights_only=True)["letters"]) if path.is_file() else None


class Student(nn.Module):
    """The encoder and a linear CTC head on its frames of 40 ms."""

    def __init__(self, encoder: WhisperEncoder, letters: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.dim, letters)

    def forward(self, features: Tensor, lengths: Tensor, segment_frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, S, V], their lengths [B], and the features before the projection [B, S', D]."""
        hidden, _ = self.encoder.hidden(features, lengths, segment_frames)
        return self.head(self.encoder.project(hidden)), self.encoder.output_lengths(lengths), hidden


def mask_features(features: Tensor, lengths: Tensor, options: AdaptOptions) -> Tensor:
    """SpecAugment (arXiv 1904.08779): two masks of bins and two of time for each of [B, T, 80]."""
    masked = features.clone()
    for row, length in zip(masked, lengths.tolist(), strict=True):
        for _ in range(2):
            width = _drawn(options.frequency_mask + 1)
            first = _drawn(row.size(1) - width + 1)
            row[:, first : first + width] = FLOOR
            frames = _drawn(min(options.time_mask, length // 5) + 1)
            first = _drawn(length - frames + 1)
            row[first : first + frames] = FLOOR
    return masked


def _drawn(below: int) -> int:
    return int(torch.randint(max(1, below), ()))


def early_chance(logits: Tensor, features: Tensor) -> Tensor:
    """Mean chance of a letter in frames of 40 ms that end before the first sound, which is a feature frame within 25 dB
    of the recording's loudest: what is written there is not known yet."""
    loudness = features.mean(2)
    loud = loudness > loudness.amax(1, keepdim=True) - 2.5 / 4  # (log10 power + 4) / 4
    first = loud.int().argmax(1) // 4
    early = torch.arange(logits.size(1), device=logits.device) < first.unsqueeze(1)
    return ((1 - logits.float().softmax(-1)[..., 0]) * early).sum() / early.sum().clamp(min=1)


class Adaptation:
    """One run in a folder: `train` goes on from its last checkpoint; `adapted.safetensors` is its newest encoder."""

    def __init__(self, folder, config: WhisperConfig, options: AdaptOptions, letters: Characters, weights="auto",
                 device="cpu"):  # fmt: skip
        self.folder, self.options, self.letters, self.device = Path(folder), options, letters, torch.device(device)
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(options.seed)
        encoder = WhisperEncoder(config)
        self.taken = load_whisper_encoder(encoder, weights)
        self.student = Student(encoder, len(letters)).to(self.device)
        self.teacher = self._make_teacher(config, weights)
        new = ("head.", "encoder.projection.", "encoder.output_norm.")
        groups = [[], []]
        for name, parameter in self.student.named_parameters():
            groups[name.startswith(new)].append(parameter)
        self._rates = options.encoder_lr, options.head_lr
        self.optimizer = torch.optim.AdamW([{"params": group} for group in groups], weight_decay=options.weight_decay)
        self.update = self.epoch = self.number = 0  # updates done; the next batch is `number` of `epoch`

    def _make_teacher(self, config: WhisperConfig, weights) -> WhisperTeacher | None:
        if not self.options.teacher_weight:
            return None
        adapted = str(weights).endswith(".safetensors")
        return WhisperTeacher(config, "auto" if adapted else weights, self.device)

    def train(self, batches: Batches, dev: dict, say=print, hours: float | None = None) -> None:
        """Until `options.updates`, or for so many hours. dev: lists of utterances by name."""
        self._resume(say)
        if self.teacher is not None:
            self.teacher.measure_share(batches.shuffled(), self.folder / "position.safetensors", self.options.bf16)
        began = time.time()
        while self.update < self.options.updates:
            for batch in batches.epoch(self.epoch, self.number):
                start = time.time()
                losses = self.step(batch)
                self._log("train.tsv", update=self.update, seconds=round(time.time() - start, 2), **losses)
                self.number += 1
                if self.update % 10 == 0:
                    parts = " ".join(f"{name} {value}" for name, value in losses.items())
                    say(f"update {self.update}: {parts}, {time.time() - start:.1f} s")
                last = self.update >= self.options.updates or (hours and time.time() - began > 3600 * hours)
                if last or self.update % self.options.save_every == 0:
                    self.save()
                if last or self.update % self.options.evaluate_every == 0:
                    self.evaluate(dev, say)
                if last:
                    return
            self.epoch, self.number = self.epoch + 1, 0

    def step(self, batch: Batch) -> dict:
        """One update; returns its losses by name."""
        options = self.options
        seed_update(options.seed, self.update)
        self._set_rates()
        self.student.train()
        segment = options.chunk_ms[_drawn(len(options.chunk_ms))] // FRAME_MS
        clean, lengths = batch.features.to(self.device), batch.lengths.to(self.device)
        masked = mask_features(batch.features, batch.lengths, options).to(self.device)
        kind = self.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=options.bf16), quick_attention(kind):
            logits, frames, hidden = self.student(masked, lengths, segment)
            taught = self.teacher(clean, lengths) if self.teacher is not None else None
        losses = {"ctc": self._ctc(logits, frames, batch.texts)}
        loss = losses["ctc"]
        if taught is not None:
            coarse = self.student.encoder.coarse is not None
            valid = frames if coarse else self.student.encoder.front.output_lengths(lengths)
            losses["teacher"] = relative_distance(hidden, taught, valid, coarse)
            loss = loss + options.teacher_weight * losses["teacher"]
        if options.early_weight:
            losses["early"] = early_chance(logits, clean)
            loss = loss + options.early_weight * losses["early"]
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), options.clip_norm)
        self.optimizer.step()
        self.update += 1
        return {name: round(float(value.detach()), 4) for name, value in losses.items()}

    def _ctc(self, logits: Tensor, frames: Tensor, texts: list) -> Tensor:
        """The mean over transcribed recordings of the loss per letter."""
        rows = [i for i, text in enumerate(texts) if text is not None]
        if not rows:
            return logits.sum() * 0
        targets = [self.letters.encode(texts[i]) for i in rows]
        lengths = torch.tensor([len(target) for target in targets])
        joined = torch.tensor([letter for target in targets for letter in target])
        log_probs = logits[rows].float().log_softmax(-1).transpose(0, 1)
        where = {"input_lengths": frames[rows].cpu(), "target_lengths": lengths, "zero_infinity": True}
        return F.ctc_loss(log_probs, joined.to(log_probs.device), **where)

    @torch.no_grad()
    def evaluate(self, dev: dict, say=print, chunks: tuple = (160, 320, 640, 960, 0)) -> list[dict]:
        """WER and CER of every dev list with every segment; rows are added to dev.tsv."""
        self.student.eval()
        rows = []
        for name, utterances in dev.items():
            pairs = {chunk: [] for chunk in chunks}
            for batch in in_batches(sorted(utterances, key=lambda one: one.seconds), 4 * self.options.batch_s):
                loaded = collate([load(one) for one in batch], [one.text for one in batch])
                for chunk in chunks:
                    pairs[chunk] += zip(self._read(loaded, chunk), map(normalise, loaded.texts), strict=True)
            for chunk in chunks:
                wer, cer = (round(rate, 1) for rate in error_rates(pairs[chunk]))
                rows.append({"update": self.update, "list": name, "chunk_ms": chunk, "wer": wer, "cer": cer})
                self._log("dev.tsv", **rows[-1])
            rates = (row for row in rows if row["list"] == name)
            shown = ", ".join(f"{row['chunk_ms']} ms {row['wer']} / {row['cer']}" for row in rates)
            say(f"update {self.update}: {name}: WER / CER % {shown}; {' | '.join(pairs[chunks[1]][0])}")
        return rows

    def _read(self, batch: Batch, chunk_ms: int) -> list[str]:
        """The greedy transcripts of a batch."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16):
            inputs = batch.features.to(self.device), batch.lengths.to(self.device)
            logits, frames, _ = self.student(*inputs, chunk_ms // FRAME_MS)
        return [self.letters.decode(row[:count]) for row, count in zip(logits, frames.tolist(), strict=True)]

    def _set_rates(self):
        options, done = self.options, self.update + 1
        left = 1 - 0.9 * max(0, done - options.warmup) / max(1, options.updates - options.warmup)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * min(1.0, done / max(1, options.warmup)) * left

    def _log(self, name: str, **values):
        path = self.folder / name
        new = not path.is_file()
        with open(path, "a", encoding="utf-8") as file:
            if new:
                file.write("\t".join(values) + "\n")
            file.write("\t".join(str(value) for value in values.values()) + "\n")

    def save(self):
        """The checkpoint to go on from, and the encoder for `--load-whisper-encoder`."""
        state = {
            "options": {**asdict(self.options), "chunk_ms": list(self.options.chunk_ms)},
            "letters": self.letters.letters,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "place": [self.update, self.epoch, self.number],
        }
        with whole_file(self.folder / LAST) as partial:
            torch.save(state, partial)
        save_adapted(self.folder / "adapted.safetensors", self.student.encoder, updates=self.update)

    def _resume(self, say):
        path = self.folder / LAST
        if not path.is_file():
            return
        saved = torch.load(path, map_location=self.device, weights_only=True)
        if saved["letters"] != self.letters.letters:
            raise ConfigError(f"{path}: was trained with other letters; choose another folder")
        self.student.load_state_dict(saved["student"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.update, self.epoch, self.number = saved["place"]
        for log in self.folder.glob("*.tsv"):  # what was done after the checkpoint comes again
            head, *rows = log.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [row for row in rows if int(row.split("\t", 1)[0]) <= self.update]
            write_text(log, "".join([head, *kept]))
        say(f"{path}: goes on after update {self.update}")
