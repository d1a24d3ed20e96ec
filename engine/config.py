"""A run in one typed, frozen object: what `config.yaml` holds and every dotted flag sets."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from blip_model.config import BlipConfig, Recomputed, preset
from engine.curriculum import curriculum_problem
from engine.data.section import DataSection
from engine.durable import write_whole
from engine.ranges import lengths_problem, out_of_range


class ConfigError(ValueError):
    """Bad input or configuration: one clear line for the user, exit code 2."""


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """The network and the settings of its objectives.

    Args:
        preset: one of tiny, mini, small, base, large.
        image_size: side of the square picture in pixels; null keeps the preset's.
        dropout: of the text transformer; null keeps the preset's.
        drop_path: of the image encoder, the last block's; null keeps the preset's.
        queue_size: momentum features kept as contrastive keys (Q).
        momentum: m of the momentum encoders, m <- momentum * m + (1 - momentum) * p.
        alpha: weight of the momentum encoders' soft targets after the ramp.
        alpha_ramp_epochs: epochs over which alpha grows linearly from 0.
        label_smoothing: of the captioning loss.
        vocabulary: folder or vocab.txt of the BERT vocabulary; null looks in installed packages.
        init_vision: ViT weights to start from (timm or DeiT: file, folder, hub name), or null.
        init_text: BERT weights to start from (folder or hub name), or null.
        checkpoint: BLIP weights to start from (ours, original .pth, Hugging Face), or null.
    """

    preset: str = "base"
    image_size: int | None = None
    dropout: float | None = None
    drop_path: float | None = None
    queue_size: int = 57600
    momentum: float = 0.995
    alpha: float = 0.4
    alpha_ramp_epochs: float = 2.0
    label_smoothing: float = 0.1
    vocabulary: str | None = None
    init_vision: str | None = None
    init_text: str | None = None
    checkpoint: str | None = None

    def network(self) -> BlipConfig:
        """The network's shape that this section describes."""
        changes = {
            "image_size": self.image_size,
            "dropout": self.dropout,
            "vision_drop_path": self.drop_path,
        }
        return preset(self.preset, **{k: v for k, v in changes.items() if v is not None})


@dataclass(frozen=True, kw_only=True)
class TrainSection:
    """The optimisation.

    Args:
        epochs: passes over the data; ignored where max_steps is set.
        max_steps: optimizer steps in all; null derives them from epochs, and 0 leaves a checkpoint
            of what the run starts from.
        global_batch_size: pairs an optimizer step, over all ranks and accumulation.
        micro_batch_size: pairs a forward pass on one rank; null takes as many as fit the batch
            without accumulation.
        negative_group_size: pairs that serve each other as in-batch keys and hard negatives, the
            batch of one GPU in the original; null takes min(global_batch_size, 64). The loss does
            not depend on the number of ranks as long as groups stay whole, but by rounding and by
            the masks of dropout, which are drawn a micro-batch at a time.
        learning_rate: peak.
        min_learning_rate: floor.
        warmup_steps: linear from warmup_learning_rate to the peak.
        warmup_learning_rate: at step 0.
        schedule: `step` is the original's pretraining (peak * decay ** epoch), `cosine` falls to
            the floor with every step, `cosine_epoch` with every epoch (the original's fine-tuning).
        decay: factor an epoch of the step schedule.
        weight_decay: of AdamW, on every parameter.
        betas: of AdamW.
        eps: of AdamW.
        clip_norm: largest gradient norm; 0 does not clip.
        log_every: steps between two lines of metrics.jsonl.
        contrast_only: pretrain by contrast alone, as CLIP and ALIGN do: the baseline.
        max_skipped_in_a_row: non-finite steps in a row that stop the run.
        activation_checkpointing: what the backward pass makes again instead of keeping it, the
            most memory first: nothing (`none`), norms and activations (`norms`, hardly any work),
            also layers of the image encoder (`vision`) or `all` layers, which keep their input
            alone and do a third more work. Losses and gradients stay the same.
        compile: make one program of the forward pass and its losses by `torch.compile`, and one of
            the momentum encoders', for each of the few shapes that batches are brought to. The
            first step of a shape takes minutes. Without ZeRO or with its stages 1 and 2.
        cuda_graph: record the passes over a micro-batch, for each of the few shapes that batches
            are brought to, and replay them: a GPU then never waits for the host to launch its
            thousands of kernels. By default where one process has a GPU and keeps what its layers
            compute; true takes it on several GPUs too, under deepspeed.stage 0 and 1.
    """

    epochs: int = 20
    max_steps: int | None = None
    global_batch_size: int = 2880
    micro_batch_size: int | None = None
    negative_group_size: int | None = None
    learning_rate: float = 3e-4
    min_learning_rate: float = 1e-6
    warmup_steps: int = 3000
    warmup_learning_rate: float = 1e-6
    schedule: Literal["step", "cosine", "cosine_epoch"] = "step"
    decay: float = 0.9
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float = 0.0
    log_every: int = 50
    contrast_only: bool = False
    max_skipped_in_a_row: int = 10
    activation_checkpointing: Recomputed = "norms"
    compile: bool = False
    cuda_graph: bool | None = None

    @property
    def group_size(self) -> int:
        """The size of a negative group, its default filled in."""
        return self.negative_group_size or min(self.global_batch_size, 64)


@dataclass(frozen=True, kw_only=True)
class CheckpointSection:
    """What is kept of a run.

    Args:
        every: steps between two checkpoints; 0 saves only at the end and on a signal.
        keep_last: newest checkpoints kept.
        keep_every: checkpoints whose step is a multiple of this are kept for good; 0 keeps none.
    """

    every: int = 1000
    keep_last: int = 2
    keep_every: int = 0


@dataclass(frozen=True, kw_only=True)
class DeepSpeedSection:
    """How DeepSpeed shares the state among ranks.

    Args:
        stage: of ZeRO: 0 replicates, 1 shards optimizer state, 2 gradients too, 3 weights too; a
            process alone has nothing to share and replicates, unless `config` is given.
        config: JSON file with further DeepSpeed settings, or null; what this run sets is refused.
    """

    stage: int = 1
    config: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """Evaluation.

    Args:
        batch_size: pictures or texts a forward pass.
        shortlist: candidates of the contrastive ranking that matching re-ranks (k), and answers
            of the list whose first tokens are the likeliest; 0 ranks by contrast alone.
        answer_list: JSON list of answers, the likeliest of which is chosen; null writes answers
            like captions.
        dense_annotations: of visdial: JSON of how many people found each candidate right, for NDCG.
        num_beams: of captioning.
        max_length: longest caption in tokens, prompt included.
        min_length: shortest caption in tokens, prompt included.
        prompt: that every generated caption starts with and that is cut off again; a captioner is
            fine-tuned on captions that start with it.
        meteor: of captioning: METEOR too, which needs Java and the package pycocoevalcap.
        spice: of captioning: SPICE too, by this folder: that of pycocoevalcap's spice-1.0.jar, with
            the two jars of CoreNLP 3.6.0 in its lib; it needs Java 8 and 8 GiB.
        classes: of classification: names that texts are searched for; null takes each picture's
            text, or the name of its folder, as its class.
        templates: of classification: sentences with {} in the place of the class; null takes the
            list of `engine.evaluation.classification`.
    """

    batch_size: int = 64
    shortlist: int = 128
    answer_list: str | None = None
    dense_annotations: str | None = None
    num_beams: int = 3
    max_length: int = 20
    min_length: int = 5
    prompt: str = "a picture of "
    meteor: bool = False
    spice: str | None = None
    classes: list[str] | None = None
    templates: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run.

    Args:
        output_dir: the run folder.
        resume: `auto` continues the newest good checkpoint of output_dir, a path continues that
            one where output_dir holds no later, `none` starts anew and refuses a folder that
            already holds a run.
        seed: of everything random.
        precision: fp32, or bf16 matrix products over fp32 weights.
        device: `auto`, `cpu` or `cuda`.
        tensorboard: write TensorBoard events.
    """

    output_dir: str = "runs/default"
    resume: str = "auto"
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "bf16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tensorboard: bool = True
    model: ModelSection = field(default_factory=ModelSection)
    data: DataSection = field(default_factory=DataSection)
    train: TrainSection = field(default_factory=TrainSection)
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    deepspeed: DeepSpeedSection = field(default_factory=DeepSpeedSection)
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)

    def __post_init__(self) -> None:
        problem = out_of_range(self)
        if problem:
            raise ConfigError(problem)
        try:
            network = self.model.network()
        except ValueError as error:
            raise ConfigError(f"model: {error}") from None
        patch, tokens = network.patch_size, self.data.max_tokens
        problem = curriculum_problem(self.data.curriculum, patch, tokens)
        if problem:
            raise ConfigError(problem)
        if not self.output_dir.strip():
            raise ConfigError("output_dir is empty: name the folder of the run")
        if self.train.global_batch_size % self.train.group_size:
            raise ConfigError(
                f"train.global_batch_size {self.train.global_batch_size} is not a multiple of "
                f"train.negative_group_size {self.train.group_size}: change one of them"
            )
        if self.train.compile and self.deepspeed.stage == 3:
            raise ConfigError(
                "train.compile: ZeRO 3 gathers weights inside the forward pass, which makes no one "
                "program; set deepspeed.stage to 0, 1 or 2"
            )
        lengths = self.evaluate.min_length, self.evaluate.max_length
        problem = lengths_problem(*lengths, section="evaluate.")
        if problem:
            raise ConfigError(problem)
        for template in self.evaluate.templates or ():
            if template.count("{}") != 1:
                raise ConfigError(f"evaluate.templates: {template!r} must hold {{}} once")

    def save(self, path: Path) -> None:
        """Write the resolved run as YAML, readable by `--config`; at no moment half of it."""
        write_whole(path, yaml.safe_dump(to_dict(self), sort_keys=False).encode())


def to_dict(config: Any) -> dict[str, Any]:
    """Any command's settings as plain nested dictionaries and lists, which `config.yaml` holds."""
    return json.loads(json.dumps(asdict(config)))
