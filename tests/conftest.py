import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Each process of the tests has one core; threads of a BLAS beside it wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
