"""The command `keras-lc`, where it is not installed: `python -m keras_lc`."""

from keras_lc.cli import main

main()
