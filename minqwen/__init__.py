"""The Qwen and Qwen2 technical reports as NumPy: each concept in one file, forward and backward.

Nothing is re-exported here: an import names the file to open.

    data/          Qwen 2.1     copies, quality, mixtures, packing
    tokenizer/     Qwen 2.2     byte-pair encoding and the files it is stored in
    layers/        Qwen 2.3.1   the pieces of a decoder block
    long_context/  Qwen 2.3.2   NTK, LogN, windows, YaRN, dual chunks
    model/         Qwen 2.3     config, block, language model, cache, sampling, checkpoints
    training/      Qwen 2.4     AdamW, schedule, clipping, 16 bits, the pretraining loop
    alignment/     Qwen 3.1-2   SFT, reward model, PPO, DPO
    agent/         Qwen 3.4     ReAct, tools, self-instruct
    check/                      proof that every gradient is right, and which mistake was made
    course/                     exercises cut from these files, and their grading
"""

__version__ = "0.1.0"
