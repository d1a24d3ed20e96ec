"""The README's tables of figures, made from files of `bench/results` alone.

    python -m bench.readme           # writes it anew
    python -m bench.readme --check   # exit code 1 when it is not what the files say

The README names the file: `<!-- figures: NAME.json -->`, the table, `<!-- end of figures -->`;
of the experiment on denoising `<!-- ablation: NAME.json -->` and its end, and of the downstream
tasks `<!-- tasks: NAME.json -->` and its end.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import task_results
from bench.figures import figure_of, verdict
from engine.ablation.results import table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
BLOCK = re.compile(
    r"<!-- (?P<kind>figures|ablation|tasks): (?P<name>\S+\.json) -->\n.*?<!-- end of (?P=kind) -->",
    re.DOTALL,
)
# What a reader who decides wants to know, in this order; what a file lacks is left out.
ROWS = {
    "flops_per_pair_ratio": "work a pair: original / ours",
    "saved_bytes_ratio": "bytes kept for the backward pass: original / ours",
    "step_time_ratio_fp32": "time of a training step, both fp32: original / ours",
    "step_time_ratio_bf16": "both bf16: original / ours",
    "step_time_ratio_shipped": "the original as shipped (fp32) / ours at its best",
    "step_time_ratio_fp32_base_batch16": "both fp32, 16 pairs a batch",
    "step_time_ratio_bf16_base_batch16": "both bf16, 16 pairs a batch",
    "step_time_ratio_shipped_base_batch16": "as shipped / ours at its best, 16 pairs a batch",
    "step_time_ratio_shipped_small_batch16": "the same, preset `small`, 16 pairs",
    "step_time_ratio_shipped_small_batch4": "the same, preset `small`, 4 pairs",
    "step_time_ratio_strong": "the original in bf16, SDPA, compiled / ours",
    "kernel_time_ratio_strong": "the same by the time of the GPU's kernels alone",
    "images_per_second": "pairs a second in training, 256 a batch",
    "images_per_second_eager": "launched kernel by kernel instead of replayed",
    "mfu": "share of the measured matrix-product ceiling",
    "peak_memory_gib_batch512": "peak memory of 512 pairs a batch, no layer run again",
    "kernel_itc_loss_bf16_ratio": "contrastive loss, 512 rows, queue 57,600: original / ours",
    "kernel_itc_loss_bf16_ratio_compiled": "the same, the original's lines compiled",
    "kernel_hard_negatives_ratio": "hard negatives of 512 pairs drawn: the original's loop / ours",
    "kernel_lm_loss_ratio": "captioning loss, 6,144 tokens, vocabulary 30,524: definition / ours",
    "kernel_lm_loss_ratio_liger": "the same: liger-kernel / ours",
    "kernel_lm_loss_ratio_cut": "the same: cut-cross-entropy / ours",
    "kernel_attention_joined_ratio": "attention of 197 tokens, from one product: PyTorch's / ours",
    "device_views_per_second": "JPEGs of 500 x 375 a second to views on the device, by DALI",
    "device_views_per_second_torchvision": "JPEGs of 500 x 375 a second to views, by torchvision",
    "caption_throughput_ratio_hf_nucleus": "captions a second, nucleus: ours / Hugging Face",
    "caption_throughput_ratio_hf_beam": "captions a second, 3 beams: ours / Hugging Face",
    "flops_per_caption_ratio": "work of a sampled caption: original's way / ours",
    "cleaned_pictures_per_second": "pictures a second captioned and filtered, 384 px",
    "cleaned_pictures_per_second_two_processes": "the same by two processes on one GPU",
    "two_process_speedup": "captioning and filtering, two processes / one",
    "loader_ratio_original": "loading, photos of 500 x 375: the original's seconds / ours",
    "loader_ratio_original_large": "loading, photos of 1,024 x 768",
    "reading_ratio_webdataset": "shuffled reading before decoding: webdataset's seconds / ours",
    "damages_applied": "shards damaged: flipped bits, cuts, members missing or apart",
    "damages_named_by_verify": "of the flips and cuts, named by `pack.py verify`",
    "samples_unaccounted": "their samples neither read as they were nor named with a reason",
    "samples_unaccounted_tarfile": "the same of the flips and cuts through Python's `tarfile`",
    "nasty_pictures": "nasty pictures, each beside a good one",
    "nasty_crashes": "crashes by them",
    "nasty_neighbours_lost": "good neighbours lost",
    "nasty_pictures_misjudged": "nasty pictures taken for good ones, or good ones for nasty",
    "bomb_memory": "peak memory of the worst bomb",
    "bomb_seconds": "time of the worst bomb",
    "nasty_captions": "nasty captions",
    "caption_escapes": "errors by them",
    "caption_seconds": "time of the worst caption",
    "hostile_endpoints": "hostile servers and names",
    "hostile_let_in": "of them let in",
    "hostile_private_hits": "connections to private addresses",
    "hostile_bytes": "bytes of the largest answer, of those allowed",
    "hostile_seconds_late": "time beyond the deadline",
    "opt_outs_honoured": "pictures behind opt-out headers left alone",
    "opt_outs_overdone": "pictures left alone without one",
    "purge_complete": "purged pairs that left no trace",
    "purge_others_changed": "other pairs changed by it",
    "million_pairs_seconds": "opening a set of a million pairs",
    "million_pairs_memory": "memory that it takes more than ten thousand pairs",
    "samples_read": "samples read one after the other",
    "reading_memory_growth": "growth of memory over them",
}


def render(name: str, results: dict[str, Any]) -> str:
    """The table of one file, as Markdown.

    Args:
        name: of the file.
        results: its content.
    """
    lines = ["| figure | median | quartiles | target |", "|---|---|---|---|"]
    for figure, words in ROWS.items():
        if figure not in results["figures"]:
            continue
        value, spread = results["figures"][figure], results["spread"][figure]
        shown = figure_of(figure).shown
        quartiles = f"{shown(spread['q1'])} to {shown(spread['q3'])}"
        quartiles = figure_of(figure).once if spread["repeats"] == 1 else quartiles
        target = verdict(figure, value, results["hardware"])
        lines.append(f"| {words} | {shown(value)} | {quartiles} | {target} |")
    return "\n".join([*lines, "", _origin(name, results)])


def _origin(name: str, results: dict[str, Any]) -> str:
    machine = results["machine"]
    where = machine.get("gpu") or f"{machine['cores']} cores of an {machine['cpu']}"
    return (
        f"`{results['command']}` on {where}, "
        f"{results['date']}, commit {results['commit']}: "
        f"[{name}](bench/results/{name}).\n"
    )


def ablation(name: str, results: dict[str, Any]) -> str:
    """The table of an experiment on denoising, as Markdown.

    Args:
        name: of the file.
        results: its content.
    """
    where = f"`{results['command']}` on {results['machine']['report made on']}"
    return f"{table(results)}{where}, commit {results['commit']}: [{name}](bench/results/{name}).\n"


def tasks(name: str, results: dict[str, Any]) -> str:
    """The table of the downstream tasks, as Markdown.

    Args:
        name: of the file.
        results: its content.
    """
    return task_results.table(results) + _origin(name, results)


KINDS: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "figures": render,
    "ablation": ablation,
    "tasks": tasks,
}


def rewritten(text: str, results: Path = RESULTS) -> str:
    """The README with every table made anew.

    Raises:
        ValueError: it names no file, or one that is not there.
    """

    def replace(found: re.Match[str]) -> str:
        kind, name = found["kind"], found["name"]
        if not (results / name).is_file():
            raise ValueError(f"README names {name}, which is not in bench/results")
        content = json.loads((results / name).read_text(encoding="utf-8"))
        made = KINDS[kind](name, content)
        return f"<!-- {kind}: {name} -->\n{made}<!-- end of {kind} -->"

    if not BLOCK.search(text):
        raise ValueError("README has no table of figures")
    return BLOCK.sub(replace, text)


def main() -> int:
    """Write or check; 0 when the README says what the files say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check, path = parser.parse_args().check, ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    new = rewritten(text)
    if check:
        return int(new != text)
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
