"""Mistakes with videos, as `tests.mistakes` lists them."""

FINETUNE = [
    ("--task video_qa --data.train pairs.json", "pairs.json: row 0 has no 'video' or 'video_id'"),
    ("--task video_qa --data.train clips.jsonl", "clips.jsonl: row 0 (clip) has no 'question'"),
    ("--task video_retrieval", "data: videos with captions come in a .json or .jsonl file"),
    ("--task video_retrieval --data.train clips.jsonl", "clips.jsonl: row 1 (clip) has no 'capt"),
    ("--task video_retrieval --data.frames 0", "data.frames is 0: must be at least 1"),
]

EVALUATE = [
    ("--task video_retrieval --data.eval clips.jsonl", "clips.jsonl: row 1 (clip) has no 'capti"),
    ("--task video_retrieval --data.eval torn.jsonl", "clip: not a usable video: truncated"),
    ("--task video_retrieval --data.eval list.json", "list.json: expected a list of videos"),
    ("--task video_qa --data.eval torn.jsonl", "cannot answer questions: they have no answering"),
]
