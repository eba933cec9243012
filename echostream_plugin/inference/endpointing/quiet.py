"""Sentences end where there is a pause: no tokens, no sound, or neither."""

from echostream_plugin.inference.endpointing.base import EndPointer, register_endpointer


@register_endpointer
class CTCEndPointer(EndPointer):
    """No CTC head finds a token."""

    name = "ctc"
    measures_loudness = False

    def silent_frames(self) -> int:
        return self._blank_frames()


@register_endpointer
class EnergyEndPointer(EndPointer):
    """The audio is quiet, compared with the last ten seconds."""

    name = "energy"

    def silent_frames(self) -> int:
        return self._quiet_frames()


@register_endpointer
class BothEndPointer(EndPointer):
    """Both at once."""

    name = "both"

    def silent_frames(self) -> int:
        return min(self._quiet_frames(), self._blank_frames())
