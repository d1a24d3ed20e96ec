"""Faults that are planted into a good run, a finding each; FOLDER is where the run lies."""

import json
from dataclasses import replace

from engine.data.index import index_path
from tests import plants
from tests.check_runs import HOST, Fault, rewrite, write_json
from tests.plants import SHARD
from tests.shards import caption, picture

DATA = [
    Fault("data_missing", "error", "set data.train to shards", "--data.train FOLDER/nowhere"),
    Fault("data_missing", "error", "no data given: set data.train", "--data.train="),
    Fault("data_missing", "error", "fetch the shards first", "--data.train s3://b/{00..09}.tar"),
    Fault(
        "data_missing",
        "error",
        "no .tar shard in this folder; set data.train",
        "--data.train FOLDER/empty",
        lambda folder: (folder / "empty").mkdir(),
    ),
    Fault("data_missing", "error", "set data.eval to", "--data.eval FOLDER/nowhere"),
    Fault("shard_damaged", "error", "fetch it again", plant=plants.cut),
    Fault(
        "shard_damaged",
        "error",
        "not a tar file",
        plant=lambda folder: (folder / "data" / "pairs_00002.tar").write_text("<html>" * 200),
    ),
    Fault(
        "shard_damaged",
        "error",
        "delete it to build it again",
        plant=lambda folder: index_path(folder / SHARD).write_bytes(b"PAR1 rubbish"),
    ),
    Fault(
        "index_missing",
        "warning",
        "launch/pack.py index",
        plant=lambda folder: index_path(folder / SHARD).unlink(),
    ),
    Fault("samples_unread", "warning", "1 never read: ../../up", plant=plants.add_stranger),
    Fault("sample_damaged", "error", "pack.py verify names every", plant=plants.damage_bytes),
    Fault(
        "sample_wrong_format",
        "error",
        "are they JPEG, PNG or WebP",
        plant=lambda folder: rewrite(
            folder, caption, lambda n: b"GIF89a" * 50 + bytes([n]) if n % 4 == 0 else picture(n)
        ),
    ),
    Fault(
        "sample_undecodable",
        "warning",
        "Leave such pairs out",
        plant=lambda folder: rewrite(
            folder, caption, lambda n: b"\xff\xd8 no picture" if n == 3 else picture(n)
        ),
    ),
    Fault(
        "sample_empty_caption",
        "error",
        "column of captions",
        plant=lambda folder: rewrite(
            folder, lambda n: " ...!" if n % 4 == 1 else caption(n), picture
        ),
    ),
    Fault("sample_too_many_pixels", "error", "raise data.max_pixels", "--data.max_pixels 2000"),
    Fault(
        "caption_repeated",
        "error",
        "Leave such pairs out",
        plant=lambda folder: rewrite(
            folder, lambda n: caption(n) if n % 4 == 0 else "Image unavailable", picture
        ),
    ),
    Fault("uid_repeated", "warning", "give each its own", plant=plants.same_names),
    Fault("pairs_repeated", "warning", "leave them out", plant=plants.same_pairs),
    Fault("eval_shared", "error", "take them out of one", plant=plants.copy_pairs),
    Fault(
        "list",
        "error",
        "no column of captions (caption",
        "--data.train FOLDER/pairs.csv --data.image_root FOLDER/pictures",
        plants.bad_list,
    ),
    Fault(
        "image_root",
        "error",
        "set it to the one",
        "--data.image_root FOLDER/nowhere",
    ),
    Fault(
        "sample_missing",
        "error",
        "is data.image_root the folder",
        "--data.train FOLDER/pairs.csv --data.image_root FOLDER/pictures",
        plants.list_without_pictures,
    ),
    Fault("max_words", "warning", "raise it", "--data.max_words 3"),
    Fault("max_tokens", "warning", "keeps 95 %", "--data.max_tokens 6"),
    Fault("positions", "error", "lower data.max_tokens", "--data.max_tokens 100"),
    Fault("vocabulary", "error", "no such file", "--model.vocabulary FOLDER/vocab.txt"),
]

BATCH = "--train.global_batch_size"
OPTIMISATION = [
    Fault("batch", "error", "change one of them", "--ranks 3"),
    Fault("batch", "error", "use fewer ranks", "--ranks 4"),
    Fault(
        "too_few_pairs",
        "error",
        "lower it, or give more",
        f"{BATCH} 40 --model.queue_size 0 --model.alpha_ramp_epochs 0",
    ),
    Fault("queue_larger_than_set", "warning", "lower it to at most 8", "--model.queue_size 32"),
    Fault("queue_not_divisible", "warning", "take 8", "--model.queue_size 9"),
    Fault("learning_rate", "error", "pretrains at 3e-4", "--train.learning_rate 0.3"),
    Fault("learning_rate", "warning", "may diverge", "--train.learning_rate 0.01"),
    Fault("min_learning_rate", "error", "lower it", "--train.min_learning_rate 0.1"),
    Fault("warmup_learning_rate", "warning", "lower it", "--train.warmup_learning_rate 0.01"),
    Fault("warmup", "error", "never reaches its peak; set it to", "--train.warmup_steps 20"),
    Fault("epochs_ignored", "warning", "leave one of the two out", "--train.epochs 3"),
    Fault("never_anneals", "warning", "train.schedule to cosine", "--train.schedule step"),
    Fault("alpha_ramp", "warning", "lower it", "--model.alpha_ramp_epochs 6"),
    Fault("checkpoint_every", "warning", "set it to about", "--train.max_steps 5000"),
    Fault("data_weights", "error", "mend data.weights", "--data.weights [1.0,2.0]"),
    Fault(
        "curriculum",
        "warning",
        "end it earlier",
        '--data.curriculum [{"until_step":20,"image_size":16}]',
    ),
    Fault("log_every", "warning", "lower it", "--train.log_every 50"),
]

WEIGHTS = [
    Fault("checkpoint_missing", "error", "give a run folder", "--model.checkpoint FOLDER/no.pth"),
    Fault(
        "checkpoint_other_network", "error", "choose the preset", "--model.checkpoint FOLDER/wide"
    ),
    Fault(
        "checkpoint_damaged",
        "error",
        "copy it again",
        "--model.checkpoint FOLDER/tiny",
        plants.rotten,
    ),
    Fault(
        "checkpoint_unreadable",
        "error",
        "a pickle that holds more than tensors",
        "--model.checkpoint FOLDER/rubbish.pth",
        lambda folder: (folder / "rubbish.pth").write_bytes(b"rubbish"),
    ),
    Fault("weights_on_hub", "warning", "fetch it before", "--model.checkpoint someone/blip-no"),
    Fault(
        "positions_interpolated",
        "warning",
        "set model.image_size to 32",
        "--model.checkpoint FOLDER/tiny --model.image_size 48",
    ),
    Fault("objective", "error", "set model.checkpoint to", "--task retrieval"),
    Fault(
        "prompt",
        "warning",
        "set it to 'a photo of '",
        "--task caption --model.checkpoint FOLDER/captioner",
        plants.a_captioner,
    ),
    Fault("weights_on_hub", "warning", "fetch it before", "--model.init_text bert-no-such"),
    Fault("model_init_vision", "error", "no such file", "--model.init_vision FOLDER/vit.pth"),
]

FOLDER = [
    Fault(
        "output_file",
        "error",
        "name a folder",
        plant=lambda folder: (folder / "run").write_text("mine"),
    ),
    Fault(
        "checkpoint_damaged",
        "warning",
        "the run continues step_00000001",
        plant=plants.last_is_rotten,
    ),
    Fault("output_in_use", "error", "wait for it", plant=plants.hold),
    Fault("output_taken", "error", "choose another", "--resume none", plants.run_with(1)),
    Fault("output_other_run", "error", "(seed 5 -> 0)", plant=plants.run_with(1, seed=5)),
    Fault("output_other_run", "error", "(seed 5 -> 0)", plant=plants.settings_only),
    Fault("output_other_data", "error", "give the same pairs", plant=plants.run_with(1)),
    Fault("resume", "error", "give its folder", "--resume FOLDER/nowhere"),
    Fault(
        "disk",
        "warning",
        "make room, or lower",
        # More than any disk has.
        "--train.max_steps 1000000000000 --checkpoint.every 1 --checkpoint.keep_last 1000000000000",
    ),
]

ZERO = "--deepspeed.config FOLDER/deepspeed.json"
MACHINE = [
    Fault("bf16", "warning", "set precision", "--precision bf16", host=replace(HOST, bf16=False)),
    Fault("memory", "error", "smaller model.preset", host=replace(HOST, memory=1 << 20)),
    Fault("workers", "warning", "set it to 2", "--data.workers 9", host=replace(HOST, cores=2)),
    Fault("shared_memory", "error", "--shm-size 1g", host=replace(HOST, shared_memory=1 << 16)),
    Fault("open_files", "error", "ulimit -n 516", host=replace(HOST, open_files=256)),
    Fault("port", "error", "--master_port", "--ranks 2", host=replace(HOST, port_free=False)),
    Fault("deepspeed", "error", "pip install", host=replace(HOST, deepspeed=False)),
    Fault("deepspeed_config", "error", "not readable", ZERO),
    Fault(
        "deepspeed_config",
        "error",
        "take it out",
        ZERO,
        lambda folder: write_json(folder, {"train_batch_size": 3}),
    ),
    Fault(
        "zero_stage",
        "error",
        "raise it",
        ZERO,
        lambda folder: write_json(
            folder, {"zero_optimization": {"offload_param": {"device": "cpu"}}}
        ),
    ),
    Fault(
        "zero_nvme",
        "error",
        "set it to one on a fast disk",
        f"{ZERO} --deepspeed.stage 3",
        lambda folder: write_json(
            folder, {"zero_optimization": {"offload_param": {"device": "nvme"}}}
        ),
    ),
    Fault(
        "secret",
        "warning",
        "credentials file",
        "--model.vocabulary null --evaluate.classes [hf_abcdefghijklmnopqrstuvwxyz012345]",
    ),
    Fault("shortlist", "warning", "lower it", "--evaluate.shortlist 17"),
]

CLEANING = [
    Fault("data_missing", "error", "no such file or folder", "--data.train FOLDER/nowhere"),
    Fault("data_missing", "error", "set data.train to tar shards", "--data.train="),
    Fault("shard_damaged", "error", "fetch it again", plant=plants.cut),
    Fault("samples_unread", "warning", "1 never read: ../../up", plant=plants.add_stranger),
    Fault("sample_damaged", "error", "pack.py verify names every", plant=plants.damage_bytes),
    Fault(
        "url_unreachable",
        "error",
        "is the URL right, and the server to be reached?",
        "--data.train http://127.0.0.1:9/pairs.tar --remote.allow_private true",
    ),
    Fault("weights", "error", "set --filter to", "--filter null"),
    Fault("checkpoint_missing", "error", "give a run folder", "--captioner FOLDER/nowhere"),
    Fault(
        "weights_other_task",
        "error",
        "give a captioner",
        "--captioner FOLDER/scorer",
        plants.a_scorer,
    ),
    Fault("positions", "error", "lower it", "--caption.max_length 65"),
    Fault("prompt_fills", "error", "4 tokens", "--caption.max_length 4 --caption.min_length 1"),
    Fault(
        "prompt",
        "warning",
        "set it to 'a photo of '",
        "--captioner FOLDER/captioner",
        plants.a_captioner,
    ),
    Fault("image_size", "error", "set model.image_size", "--model.image_size 30"),
    Fault(
        "output_file",
        "error",
        "name a folder",
        plant=lambda folder: (folder / "clean").write_text("mine"),
    ),
    Fault("output_other_run", "error", "(seed 5 -> 0)", plant=plants.cleaned_with_seed_5),
    Fault(
        "from_table",
        "error",
        "name an earlier run's",
        "--captioner null --filter null --from_table FOLDER/nowhere",
    ),
]

FAULTS = [*DATA, *OPTIMISATION, *WEIGHTS, *FOLDER, *MACHINE]


def described(fault: Fault) -> str:
    """A name for a test."""
    return f"{fault.name} {json.dumps(fault.words)[1:40]}"
