"""Mistakes on the command lines of `caption` and `embed`, as in `tests.mistakes`."""

BOTH = [
    ("--modle x", "did you mean 'model'?"),
    ("--model ", "no model: set --model"),
    ("--model missing.pth", "missing.pth: no such file or folder"),
    ("--model rubbish.pth", "rubbish.pth: refused: damaged"),
    ("--batch_size 0", "batch_size is 0: must be at least 1"),
    ("--image_size 30", "image_size 30 is not a multiple"),
    ("--vocabulary missing.txt", "vocabulary missing.txt: no such file"),
    ("--output file", "output file: must end in one of"),
    ("--output data.txt", "output data.txt: must end in one of"),
    ("--config list.yaml", "--config list.yaml: holds no settings"),
]
CAPTION = [
    *BOTH,
    ("--model scorer", "cannot caption: they have no text_decoder"),
    ("--output features.npy", "output features.npy: must end in one of .jsonl, .csv, .parquet"),
    ("--output there.jsonl", "output there.jsonl: exists already; remove it or choose another"),
    ("--output file/x.csv", "output file/x.csv: cannot be written: "),
    ("--caption.samples 2", "beam search gives one caption a picture"),
    ("--caption.max_length 3", "caption.min_length 5 is more than caption.max_length 3"),
    ("--caption.max_length 65", "at most the network's 64 positions"),
    ("--caption.topp 1", "did you mean 'caption.top_p'?"),
]
EMBED = [
    *BOTH,
    ("--model captioner", "cannot retrieve or score: they have no text_encoder"),
    ("--output null", "no output: set --output"),
    ("--output scores.csv", "output scores.csv: must end in one of .parquet, .npy"),
    ("--what pairs --output x.npy", "output x.npy: must end in one of .parquet, .jsonl, .csv"),
    ("--output there.npy", "output there.jsonl: exists already"),
    ("--what images", "what: expected pictures or texts or pairs, got 'images'"),
    ("--texts [a]", "texts: --what is pictures; set it to texts or pairs"),
    ("--what texts --texts [a]", "texts and pictures both name texts"),
    ("--what pairs --output OUT/x.csv --texts missing.txt", "texts missing.txt: No such file"),
    ("--what pairs --output OUT/x.csv --texts bytes", "texts bytes: not UTF-8 text"),
    ("--max_tokens 2", "max_tokens is 2: must be at least 3"),
]
