"""Speech for tests, whatever model is bundled: sentences that espeak speaks in Spanish, without silence around them."""

from pathlib import Path

import numpy as np
import soundfile

FOLDER = Path(__file__).parent / "data" / "speech"
ROOM, HOSPITAL, APPOINTMENT, SQUARE = sorted(FOLDER.glob("*.flac"))  # 1.9, 1.8, 3.5 and 5.6 s; the last three sentences


def recording(path: Path) -> np.ndarray:
    """Float samples at 16 kHz."""
    return soundfile.read(path, dtype="float32")[0]
