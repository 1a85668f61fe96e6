"""Configs of Hugging Face families, from transformers' own config classes: the parameters of the models they make."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from pauca.errors import InputError
from pauca.moe.plan import FAMILIES, SHAPES, model_shape
from pauca.moe.plan.config_files import from_config_json
from pauca.moe.plan.memory import kept_by_attention
from pauca.runs import to_dict

transformers = pytest.importorskip("transformers")

# No such class in transformers, or one whose defaults are no whole model.
ELSEWHERE = {"kimi_k2", "kimi_k25"}
INCOMPLETE = {
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {"n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 2, "first_k_dense_replace": 1},
}
# Their default number of heads is that of keys and values, too, which would hide whether that is read.
INCOMPLETE["dots1"] |= {"num_attention_heads": 64}
INCOMPLETE["qwen2_moe"] = {"num_attention_heads": 32}
INCOMPLETE |= {"hunyuan_v1_moe": {"head_dim": 128, "num_experts": 64, "moe_topk": 8}}


def write(folder: Path, config: dict) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config, default=str))
    return path


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - ELSEWHERE))
def test_parameters_are_those_of_transformers_own_model(family, tmp_path):
    """Of the default config; no weights are made. What is simplified is said, and within 4 %."""
    config = transformers.AutoConfig.for_model(family, **INCOMPLETE.get(family, {}))
    shape = from_config_json(write(tmp_path, config.to_dict()))
    with torch.device("meta"):
        text = config.get_text_config()
        auto = transformers.AutoModelForCausalLM if family != "qwen3_vl_moe_text" else transformers.AutoModel
        model = auto.from_config(text)
    expected = sum(weight.numel() for weight in model.parameters())
    if auto is transformers.AutoModel:  # without a head
        expected += 0 if shape.tied else shape.embedding_parameters
    assert shape.parameters == pytest.approx(expected, rel=0.04 if shape.note else 0.0006)
    assert bool(shape.note) == bool(FAMILIES[family].note)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - ELSEWHERE))
def test_an_entry_that_is_missing_is_refused_or_decides_nothing(family, tmp_path):
    """transformers' own models then have its default: an expert's width was read from that of dense layers."""
    given = INCOMPLETE.get(family, {})
    whole = transformers.AutoConfig.for_model(family, **given).to_dict()
    text = whole.get("text_config", whole)
    expected = from_config_json(write(tmp_path, whole))
    for name in text.keys() - given.keys() - {"model_type", "n_group", "topk_group"}:
        part = {other: value for other, value in text.items() if other != name}
        path = write(tmp_path, whole | {"text_config": part} if text is not whole else part)
        shape, message = expected, f"{name} is missing"
        try:
            shape = from_config_json(path)
        except InputError as error:
            message = str(error)
        assert replace(shape, context=expected.context) == expected, name
        assert re.search(rf"\b{name}( or \w+)* is missing", message), message


def test_kimi_k2_is_read_as_deepseek_v3_is(tmp_path):
    """Kimi K2, arXiv 2507.20534: 1.04 trillion parameters, 32.6 B active."""
    config = {
        "model_type": "kimi_k2", "vocab_size": 163840, "hidden_size": 7168, "intermediate_size": 18432,
        "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 64, "n_shared_experts": 1,
        "n_routed_experts": 384, "num_experts_per_tok": 8, "first_k_dense_replace": 1, "kv_lora_rank": 512,
        "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    }  # fmt: skip
    shape = from_config_json(write(tmp_path, config))
    assert shape.parameters / 1e12 == pytest.approx(1.04, rel=0.02)
    assert shape.active_parameters / 1e9 == pytest.approx(32.6, rel=0.04)
    picture = {"model_type": "kimi_k25", "text_config": config}  # pictures and text: the language model alone
    assert from_config_json(write(tmp_path, picture)) == shape


def test_an_unknown_family_is_read_as_another(tmp_path):
    config = transformers.AutoConfig.for_model("qwen3_moe").to_dict()
    path = write(tmp_path, config | {"model_type": "mine"})
    with pytest.raises(InputError, match=r"model_type is 'mine'; known are .*; read it as one of them with --like"):
        model_shape(str(path))
    expected = model_shape(str(write(tmp_path, config)))
    assert model_shape(str(write(tmp_path, config | {"model_type": "mine"})), like="qwen3_moe") == expected
    with pytest.raises(InputError, match="--like gpt: no family that is known"):
        model_shape(str(path), like="gpt")


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - ELSEWHERE))
def test_a_damaged_config_is_read_or_refused_by_its_path(family, tmp_path):
    whole = transformers.AutoConfig.for_model(family, **INCOMPLETE.get(family, {})).to_dict()
    text = whole.get("text_config", whole)
    for name in text:
        for odd in (None, 0, -1, 2.5, "many", [1], {"a": 1}):
            damaged = text | {name: odd}
            path = write(tmp_path, whole | {"text_config": damaged} if text is not whole else damaged)
            message = str(path)
            try:
                from_config_json(path)
            except InputError as error:
                message = str(error)
            assert str(path) in message


@pytest.mark.parametrize("name", ["deepseek-v3", "qwen3-30b-a3b"])
def test_a_shape_of_ones_own_is_read_from_yaml(name, tmp_path):
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(to_dict(SHAPES[name])))
    assert model_shape(str(path)) == SHAPES[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": 4}, "a token cannot visit 8 of 4 experts"),
        ({"layers": "many"}, "layers"),
        ({"breadth": 3}, "breadth"),
        ({"dense_layers": 61}, "one must be MoE"),
    ],
)
def test_a_bad_shape_is_said_in_one_line(change, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(to_dict(SHAPES["deepseek-v3"]) | change))
    with pytest.raises(InputError, match=message) as caught:
        model_shape(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_projections_of_latent_attention_keep_rows_in_place_of_norms():
    from pauca.moe.models.config import Recomputation

    shape = SHAPES["deepseek-v3"]
    bf16, fp4 = (kept_by_attention(shape, Recomputation(), 1024, projected) for projected in ("bf16", "fp4"))
    widths = (7168, 1536, 512)
    rows = sum(-(-(width // 2 + width // 32) // 16) * 16 for width in widths)
    assert sum(bf16.values()) - sum(fp4.values()) == 1024 * (2 * sum(widths) - rows) - 4
