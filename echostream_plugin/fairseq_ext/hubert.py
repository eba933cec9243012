"""HuBERT features from a fairseq checkpoint, for speech units."""

from pathlib import Path

import numpy as np
import torch
from fairseq import checkpoint_utils

from echostream_plugin.config import ConfigError

SAMPLE_RATE = 16000
CHUNK_SAMPLES = 100 * SAMPLE_RATE  # longer recordings are read in pieces


class HubertFeatures:
    """wave float32 [n] at 16 kHz -> [T, D] of one layer, a frame every 20 ms."""

    def __init__(self, checkpoint, layer: int, device: str = "cpu"):
        if not Path(checkpoint).is_file():
            raise ConfigError(f"{checkpoint}: no such HuBERT checkpoint (mhubert_base_vp_en_es_fr_it3.pt for CVSS-C)")
        print(f"note: {checkpoint} is a pickle; it can run code, so use it only if you trust where it is from")
        models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
        self.model = models[0].eval().to(device)
        self.normalize = bool(task.cfg.normalize)
        self.layer, self.device = layer, device

    @torch.inference_mode()
    def __call__(self, wave: np.ndarray) -> np.ndarray:
        samples = torch.from_numpy(np.asarray(wave, dtype=np.float32)).to(self.device)
        if self.normalize:
            samples = torch.nn.functional.layer_norm(samples, samples.shape)
        pieces = []
        for piece in samples.view(1, -1).split(CHUNK_SAMPLES, dim=1):
            features, _ = self.model.extract_features(piece, padding_mask=None, mask=False, output_layer=self.layer)
            pieces.append(features[0])
        return torch.cat(pieces).float().cpu().numpy()
