"""The figures of `bench/results/*.json` by name: unit, target, and the table that is printed."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """What a number is.

    Attributes:
        unit: `x` for a ratio, `FLOP`, `B`, `/s`, `s`, `share`, `GiB`, or none of what is counted.
        at_least: its target by hardware, or none.
        at_most: the same where less is better.
    """

    unit: str = "x"
    at_least: tuple[tuple[str, float], ...] = ()
    at_most: tuple[tuple[str, float], ...] = ()

    def target(self, hardware: str) -> tuple[float, bool] | None:
        """Its target on `cpu` or `gpu` and whether more is better."""
        for bounds, more in ((self.at_least, True), (self.at_most, False)):
            for kind, bound in bounds:
                if kind == hardware:
                    return bound, more
        return None

    @property
    def once(self) -> str:
        """What one reading of it is."""
        return "timed once" if self.unit in ("/s", "s", "FLOP/s") else "counted"

    def shown(self, value: float) -> str:
        """A value with its unit, in few characters."""
        if self.unit in ("FLOP", "B", "FLOP/s"):
            scale = {"FLOP": 1e9, "B": 1e6, "FLOP/s": 1e12}[self.unit]
            prefix = {"FLOP": "G", "B": "M", "FLOP/s": "T"}[self.unit]
            return f"{value / scale:.4g} {prefix}{self.unit}"
        if self.unit == "share":
            return f"{value:.1%}"
        if self.unit == "":
            return f"{value:g}"
        digits = f"{value:.2f}" if value < 10 else f"{value:.4g}"
        if self.unit == "s":
            digits = f"{value:.3g}"
        return digits + {"x": "x", "/s": " /s", "s": " s", "GiB": " GiB"}[self.unit]


BOTH_200 = (("cpu", 200e9), ("gpu", 200e9))
# The bound of 0.62 of the original's bytes, as original / ours.
BOTH_SAVED = (("cpu", 1 / 0.62), ("gpu", 1 / 0.62))
# At most 0.45 of the original's work, as original / ours.
BOTH_CAPTION = (("cpu", 1 / 0.45), ("gpu", 1 / 0.45))
# Of what must not be lost, let in or left, and of what was tried for it.
NONE, ALL = (("cpu", 0), ("gpu", 0)), (("cpu", 1), ("gpu", 1))


def _both(bound: float) -> tuple[tuple[str, float], ...]:
    return (("cpu", bound), ("gpu", bound))


# Networks that the targets are for.
TARGETED = ("_base_", "_small_")
FIGURES = {
    "flops_per_pair": Figure("FLOP", at_most=BOTH_200),
    "flops_per_pair_original": Figure("FLOP"),
    "flops_per_pair_ratio": Figure(),
    "saved_bytes_per_pair": Figure("B"),
    "saved_bytes_per_pair_original": Figure("B"),
    "saved_bytes_ratio": Figure(at_least=BOTH_SAVED),
    "step_time_ratio_fp32": Figure(at_least=(("cpu", 1.5),)),
    "step_time_ratio_bf16": Figure(at_least=(("cpu", 1.5),)),
    "step_time_ratio_tf32": Figure(),
    "step_time_ratio_shipped": Figure(at_least=(("cpu", 3.5),)),
    "step_time_ratio_strong": Figure(at_least=(("gpu", 1.75),)),
    "kernel_time_ratio_strong": Figure(),
    "images_per_second": Figure("/s", at_least=(("gpu", 2100),)),
    "gemm_ceiling": Figure("FLOP/s"),
    "gemm_forward": Figure("FLOP/s"),
    "gemm_by_input": Figure("FLOP/s"),
    "gemm_by_weight": Figure("FLOP/s"),
    "attention_flops": Figure("FLOP/s"),
    "decode_step_seconds": Figure("s"),
    "device_views_per_second": Figure("/s"),
    "device_decoded_per_second": Figure("/s"),
    "device_views_per_second_torchvision": Figure("/s"),
    "device_decoded_per_second_torchvision": Figure("/s"),
    "mfu": Figure("share", at_least=(("gpu", 0.54),)),
    "peak_memory_gib_batch512": Figure("GiB", at_most=(("gpu", 45),)),
    "kernel_itc_loss_ratio": Figure(),
    "kernel_itc_loss_ratio_compiled": Figure(),
    "kernel_itc_loss_bf16_ratio": Figure(at_least=(("gpu", 5),)),
    "kernel_itc_loss_bf16_ratio_compiled": Figure(at_least=(("gpu", 2),)),
    "kernel_itc_loss_bf16_ratio_gemm": Figure(),
    "kernel_itc_loss_ratio_chunked": Figure(),
    "kernel_itc_loss_ratio_gemm": Figure(),
    "kernel_hard_negatives_ratio": Figure(),
    "kernel_negative_states_ratio": Figure(),
    "kernel_nucleus_draw_ratio": Figure(),
    "kernel_attention_vision_ratio": Figure(),
    "kernel_attention_vision_ratio_sdpa": Figure(),
    "kernel_attention_cross_ratio": Figure(),
    "kernel_attention_cross_ratio_sdpa": Figure(),
    "kernel_attention_joined_ratio": Figure(),
    "kernel_attention_joined_larger_ratio": Figure(),
    "kernel_normalise_ratio": Figure(),
    "kernel_attention_packed_ratio": Figure(),
    "kernel_attention_rows_ratio": Figure(),
    "kernel_looking_ratio": Figure(),
    "kernel_ema_ratio": Figure(),
    "kernel_linear_gelu_ratio": Figure(),
    "kernel_mlp_ratio": Figure(),
    "kernel_add_norm_ratio": Figure(),
    "kernel_adamw_ema_ratio": Figure(),
    "kernel_lm_loss_ratio": Figure(),
    "kernel_lm_loss_ratio_liger": Figure(),
    "kernel_lm_loss_ratio_cut": Figure(),
    "caption_throughput_ratio_hf": Figure(at_least=(("cpu", 3), ("gpu", 10))),
    "caption_throughput_ratio_hf_beam": Figure(at_least=(("cpu", 3), ("gpu", 10))),
    "caption_throughput_ratio_hf_beam_fp32": Figure(),
    "caption_throughput_ratio_hf_beam_bf16": Figure(),
    "caption_throughput_ratio_hf_nucleus": Figure(at_least=(("cpu", 3), ("gpu", 10))),
    "caption_throughput_ratio_hf_nucleus_fp32": Figure(),
    "caption_throughput_ratio_hf_nucleus_bf16": Figure(),
    "captions_per_second_beam": Figure("/s"),
    "captions_per_second_nucleus": Figure("/s"),
    "flops_per_caption": Figure("FLOP"),
    "flops_per_caption_original": Figure("FLOP"),
    "flops_per_caption_ratio": Figure(at_least=BOTH_CAPTION),
    "flops_per_cleaned_picture": Figure("FLOP"),
    "flops_per_cleaned_picture_original": Figure("FLOP"),
    "flops_per_cleaned_picture_ratio": Figure(),
    "cleaned_pictures_per_second": Figure("/s", at_least=(("gpu", 1517),)),
    "cleaned_pictures_per_second_two_processes": Figure("/s", at_least=(("gpu", 1517),)),
    "two_process_speedup": Figure(at_least=(("cpu", 1.7),)),
    "rerank_flops_ratio": Figure(),
    "rerank_time_ratio": Figure(at_least=(("cpu", 3), ("gpu", 3))),
    "loader_pairs_per_second": Figure("/s"),
    "loader_ratio_original": Figure(at_least=(("cpu", 2.5),)),
    "loader_ratio_webdataset": Figure(),
    "reading_ratio_webdataset": Figure(at_least=(("cpu", 3), ("gpu", 3))),
    "damages_applied": Figure("", at_least=_both(270)),
    "damages_named_by_verify": Figure("share", at_least=ALL),
    "samples_unaccounted": Figure("", at_most=NONE),
    "samples_unaccounted_tarfile": Figure(""),
    "nasty_pictures": Figure("", at_least=_both(24)),
    "nasty_pictures_misjudged": Figure("", at_most=NONE),
    "nasty_crashes": Figure("", at_most=NONE),
    "nasty_neighbours_lost": Figure("", at_most=NONE),
    "bomb_memory": Figure("B", at_most=_both(64e6)),
    "bomb_seconds": Figure("s", at_most=_both(0.05)),
    "nasty_captions": Figure("", at_least=_both(5040)),
    "caption_escapes": Figure("", at_most=NONE),
    "caption_seconds": Figure("s", at_most=_both(0.005)),
    "hostile_endpoints": Figure("", at_least=_both(15)),
    "hostile_let_in": Figure("", at_most=NONE),
    "hostile_private_hits": Figure("", at_most=NONE),
    "hostile_bytes": Figure("share", at_most=ALL),
    "hostile_seconds_late": Figure("s", at_most=_both(1)),
    "opt_outs_asked": Figure("", at_least=_both(9)),
    "opt_outs_honoured": Figure("share", at_least=ALL),
    "opt_outs_overdone": Figure("", at_most=NONE),
    "purge_complete": Figure("share", at_least=ALL),
    "purge_others_changed": Figure("", at_most=NONE),
    "million_pairs_memory": Figure("B", at_most=_both(16e6)),
    "million_pairs_seconds": Figure("s", at_most=_both(10)),
    "samples_read": Figure("", at_least=_both(200_000)),
    "reading_memory_growth": Figure("share", at_most=_both(0.02)),
}


def base_name(name: str) -> str:
    """The figure that a name is of: `_small_batch4` and the like behind it say where.

    Raises:
        KeyError: no such figure.
    """
    known = [base for base in FIGURES if name == base or name.startswith(base + "_")]
    if not known:
        raise KeyError(f"{name} is no figure of bench/figures.py")
    return max(known, key=len)


def figure_of(name: str) -> Figure:
    """What a figure is.

    Raises:
        KeyError: no such figure.
    """
    return FIGURES[base_name(name)]


def verdict(name: str, value: float, hardware: str) -> str:
    """The target and whether it is met; nothing for a figure, or a network, without one."""
    figure, where = figure_of(name), name.removeprefix(base_name(name))
    found = figure.target(hardware)
    if found is None or not (where == "" or where.startswith(TARGETED)):
        return ""
    bound, more = found
    met = value >= bound if more else value <= bound
    return f"{'>=' if more else '<='} {figure.shown(bound)} {'met' if met else 'MISSED'}"


def table(results: dict[str, Any]) -> str:
    """The results as a table, one figure a line, and the notes below."""
    rows = [("figure", "median", "quartiles", "repeats", "target")]
    order = list(FIGURES)
    for name in sorted(results["figures"], key=lambda name: order.index(base_name(name))):
        value = results["figures"][name]
        figure, spread = figure_of(name), results["spread"][name]
        repeats = spread["repeats"]
        quartiles = f"{figure.shown(spread['q1'])} to {figure.shown(spread['q3'])}"
        counted = repeats == 1
        rows.append(
            (
                name,
                figure.shown(value),
                figure.once if counted else quartiles,
                "" if counted else str(repeats),
                verdict(name, value, results["hardware"]),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, *(f"note: {line}" for line in results["notes"])])
