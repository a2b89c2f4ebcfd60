"""Arrays to small bytes and back; numpy and pcodec only, no framework and no file.

A state is a mapping from names to arrays. `DeltaEncoder` turns each state into the
difference to what a decoder already has; `DeltaDecoder` turns these blobs back. How a
tensor is coded depends on its role (`TensorSpec`) and on the codec (`Rules`); the methods
themselves are in `codecs/`, their symbols become bytes in `streams`.
"""

from keras_lc.core.decoder import DeltaDecoder
from keras_lc.core.encoder import DeltaEncoder
from keras_lc.core.merge import merge
from keras_lc.core.plain import compress, compression_rate, decompress, report
from keras_lc.core.presets import LC, PRESETS, Balanced, Int8, Lossless, Rules
from keras_lc.core.spec import TensorSpec
from keras_lc.core.state import several

__all__ = [
    "LC",
    "PRESETS",
    "Balanced",
    "DeltaDecoder",
    "DeltaEncoder",
    "Int8",
    "Lossless",
    "Rules",
    "TensorSpec",
    "compress",
    "compression_rate",
    "decompress",
    "merge",
    "report",
    "several",
]
