"""Single towers by timm's, DeiT's and BERT's names start the network with their function."""

import torch
import transformers

from blip_model import Blip
from blip_model.convert.towers import fit_rows, text_tower, vision_tower
from blip_model.vit import VisionTransformer
from tests.tiny import tiny_config, tiny_inputs


def bert_config(vocab_size: int) -> transformers.BertConfig:
    network = tiny_config()
    return transformers.BertConfig(
        vocab_size=vocab_size,
        hidden_size=network.text_width,
        num_hidden_layers=network.text_layers,
        num_attention_heads=network.text_heads,
        intermediate_size=network.text_intermediate,
        max_position_embeddings=network.max_positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def test_a_classifier_is_dropped_and_the_rest_fits_strictly() -> None:
    network = VisionTransformer(tiny_config())
    heads = ("head.weight", "head.bias", "pre_logits.fc.weight", "fc_norm.weight")
    file = {**network.state_dict(), **{name: torch.zeros(2) for name in heads}}
    tower = vision_tower(file, tokens=17)
    assert sorted(tower.dropped) == sorted(heads)
    fresh = VisionTransformer(tiny_config())
    fresh.load_state_dict(tower.weights)
    image, _, _ = tiny_inputs(2)
    assert torch.equal(fresh(image), network(image))


def test_a_distilled_vit_loses_its_second_token() -> None:
    network = VisionTransformer(tiny_config()).state_dict()
    positions = network["pos_embed"]
    extra = torch.full((1, 1, 32), 9.0)
    file = {**network, "pos_embed": torch.cat([positions[:, :1], extra, positions[:, 1:]], 1)}
    file |= {"dist_token": extra, "head_dist.weight": torch.zeros(2)}
    tower = vision_tower(file, tokens=17)
    assert set(tower.dropped) == {"dist_token", "head_dist.weight"}
    assert torch.equal(tower.weights["pos_embed"], positions)


def test_bert_gives_its_own_states_without_token_types() -> None:
    torch.manual_seed(0)
    bert = transformers.BertModel(bert_config(30524)).eval()
    with torch.no_grad():
        bert.embeddings.token_type_embeddings.weight.zero_()
    tower = text_tower(bert.state_dict(), 2)
    assert set(tower.dropped) == {
        "embeddings.token_type_embeddings.weight",
        "pooler.dense.weight",
        "pooler.dense.bias",
    }
    ours = Blip(tiny_config(), text_decoder=False).eval().text_encoder
    cross = {n: t for n, t in ours.state_dict().items() if ".crossattention." in n}
    ours.load_state_dict({**cross, **tower.weights})
    _, ids, mask = tiny_inputs(3)
    with torch.no_grad():
        states, theirs = ours(ids, mask), bert(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(states[mask.bool()], theirs[mask.bool()], rtol=1e-5, atol=1e-5)


def test_the_masked_word_head_is_kept_and_the_next_sentence_head_dropped() -> None:
    file = transformers.BertForPreTraining(bert_config(100)).state_dict()
    tower = text_tower(file, 2)
    assert {n for n in tower.weights if n.startswith("cls.")} == {
        "cls.predictions.bias",
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.predictions.transform.LayerNorm.bias",
    }
    assert {"cls.seq_relationship.weight", "cls.predictions.decoder.weight"} <= set(tower.dropped)
    assert len(tower.weights) + len(tower.dropped) == len(file)


def test_old_names_of_the_norms_are_known() -> None:
    file = {
        "bert.embeddings.LayerNorm.gamma": torch.ones(2),
        "bert.encoder.layer.0.output.LayerNorm.beta": torch.ones(2),
        "bert.embeddings.position_ids": torch.zeros(1),
    }
    assert set(text_tower(file, 2).weights) == {
        "embeddings.LayerNorm.weight",
        "encoder.layer.0.output.LayerNorm.bias",
    }


def test_rows_of_a_table_fit_and_the_added_ones_stay_fresh() -> None:
    fresh = torch.randn(5, 2)
    fitted = fit_rows(fresh, torch.ones(3, 2))
    assert torch.equal(fitted[:3], torch.ones(3, 2)) and torch.equal(fitted[3:], fresh[3:])
    assert torch.equal(
        fit_rows(fresh, torch.arange(14.0).reshape(7, 2)), torch.arange(10.0).reshape(5, 2)
    )
    other = torch.ones(3, 4)
    assert fit_rows(fresh, other) is other


def test_a_deeper_bert_gives_every_nth_layer() -> None:
    names = [f"bert.encoder.layer.{n}.output.dense.weight" for n in range(6)]
    file = {name: torch.full((1,), float(n)) for n, name in enumerate(names)}
    tower = text_tower(file, layers=3)
    assert {name: tensor.item() for name, tensor in tower.weights.items()} == {
        f"encoder.layer.{n}.output.dense.weight": 2.0 * n for n in range(3)
    }
    assert sorted(tower.dropped) == [names[1], names[3], names[5]]
    # No whole number of times deeper: nothing is guessed, and the loader refuses what is left over.
    assert len(text_tower(file, layers=4).weights) == 6
