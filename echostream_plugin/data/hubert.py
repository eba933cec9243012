"""HuBERT features by the transformers library, for speech units; `fairseq_ext.hubert` reads fairseq's checkpoints."""

from pathlib import Path

import numpy as np
import torch

from echostream_plugin.config import ConfigError

CHUNK_SAMPLES = 1600000  # 100 s at 16 kHz: longer recordings are read in pieces, as StreamSpeech's reader does
MIN_SAMPLES = 400


class LayerFeatures:
    """wave float32 [n] at 16 kHz -> [T, D] of one layer of a HuBERT, a frame every 20 ms."""

    normalize: bool  # the waveform, as in the model's training
    device: str

    def frames_of(self, piece: torch.Tensor) -> torch.Tensor:
        """[T, D] of a piece [1, m]."""
        raise NotImplementedError

    @torch.inference_mode()
    def __call__(self, wave: np.ndarray) -> np.ndarray:
        samples = torch.from_numpy(np.asarray(wave, dtype=np.float32)).to(self.device)
        if self.normalize:
            samples = torch.nn.functional.layer_norm(samples, samples.shape)
        return torch.cat([self.frames_of(piece) for piece in pieces_of(samples)]).float().cpu().numpy()


class TransformersHubert(LayerFeatures):
    """By the transformers library.

    folder: config.json and model.safetensors, as `save_pretrained` leaves them.
    """

    def __init__(self, folder, layer: int, device: str = "cpu"):
        if not (Path(folder) / "config.json").is_file():
            raise ConfigError(f"{folder}: no HuBERT folder of the transformers library (config.json is not there)")
        try:
            from transformers import HubertModel
        except ImportError as error:
            raise ConfigError("a HuBERT folder needs the transformers library: pip install transformers") from error
        self.model = HubertModel.from_pretrained(str(folder), local_files_only=True).eval().to(device)
        config = self.model.config
        if not 1 <= layer <= config.num_hidden_layers:
            raise ConfigError(f"{folder}: --layer {layer}, but the model has {config.num_hidden_layers} layers")
        if config.do_stable_layer_norm and layer == config.num_hidden_layers:
            raise ConfigError(f"{folder}: --layer {layer} is normalised here but not in fairseq; use another")
        # fairseq normalises the waveform where the convolutions have layer norm; preprocessor_config.json of
        # converted base models says that theirs is normalised too, and it was not in training
        self.normalize = config.feat_extract_norm == "layer"
        self.layer, self.device = layer, device

    def frames_of(self, piece: torch.Tensor) -> torch.Tensor:
        return self.model(piece, output_hidden_states=True).hidden_states[self.layer][0]


def pieces_of(samples: torch.Tensor) -> list[torch.Tensor]:
    """samples: [n] -> pieces [1, m] of at most 100 s; a last one too short for a frame is dropped."""
    pieces = samples.view(1, -1).split(CHUNK_SAMPLES, dim=1)
    return [piece for piece in pieces if piece.shape[1] >= MIN_SAMPLES]
