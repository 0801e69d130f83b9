"""The Qwen and Qwen2 technical reports as NumPy: each concept in one file, forward and backward.

Nothing is re-exported here: an import names the file to open.

    data/          Qwen 2.1     corpora, packing
    tokenizer/     Qwen 2.2     byte-pair encoding and the files it is stored in
    layers/        Qwen 2.3.1   the pieces of a decoder block
    model/         Qwen 2.3     config, block, language model, cache, sampling, checkpoints
    training/      Qwen 2.4     AdamW, schedule, clipping, the pretraining loop
    check/                      proof that every gradient is right
"""

__version__ = "0.1.0"
