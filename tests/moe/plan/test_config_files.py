import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pauca.errors import ConfigError, InputError
from pauca.moe.models.lm import LM_SIZES
from pauca.moe.models.shapes import GroupedQueryAttention, LatentAttention, ModelShape
from pauca.moe.plan.config_files import from_config_json, model_shape
from pauca.moe.plan.published import ALIASES, SHAPES
from pauca.moe.plan.task import PlanTask
from pauca.runs import to_dict

# Total: what the published weight files add up to, in billions. Active: as announced by the makers, who differ in
# whether the embedding (one row of which a token reads), or embedding and head, count.
PUBLISHED = {
    "deepseek-v3": (671.03, 37, "head"),  # technical report, arXiv 2412.19437: 671 B, 37 B
    "deepseek-v2-lite": (15.71, 2.4, "head"),  # arXiv 2405.04434: 15.7 B, 2.4 B
    "moonlight-16b-a3b": (15.96, 2.24, "neither"),  # arXiv 2502.16982: 15.29 B and 2.24 B without either
    "qwen3-235b-a22b": (235.09, 22, "both"),  # arXiv 2505.09388: 235 B, 22 B
    "qwen3-30b-a3b": (30.53, 3.3, "both"),  # model card: 30.5 B, 3.3 B
    "mixtral-8x7b": (46.70, 12.9, "both"),  # announcement: 46.7 B, 12.9 B
    "mixtral-8x22b": (140.62, 39, "both"),  # announcement: 141 B, 39 B
}


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_the_published_ones(name):
    total, active, counted = PUBLISHED[name]
    shape = SHAPES[name]
    assert shape.parameters / 1e9 == pytest.approx(total, abs=0.006)
    used = shape.active_parameters - {"both": 0, "head": 1, "neither": 2}[counted] * shape.embedding_parameters
    assert used / 1e9 == pytest.approx(active, rel=0.022)


def test_some_totals_are_exact():
    """As listed with the weight files."""
    assert SHAPES["qwen3-30b-a3b"].parameters == 30_532_122_624
    assert SHAPES["qwen3-235b-a22b"].parameters == 235_093_634_560
    assert SHAPES["mixtral-8x7b"].parameters == 46_702_792_704
    assert SHAPES["deepseek-v2-lite"].parameters == 15_706_484_224


MIXTRAL = {
    "model_type": "mixtral", "vocab_size": 32000, "num_hidden_layers": 32, "hidden_size": 4096,
    "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8,
    "num_experts_per_tok": 2,
}  # fmt: skip
QWEN = {
    "model_type": "qwen3_moe", "vocab_size": 151936, "num_hidden_layers": 48, "hidden_size": 2048,
    "intermediate_size": 6144, "moe_intermediate_size": 768, "num_attention_heads": 32, "num_key_value_heads": 4,
    "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "tie_word_embeddings": False, "mlp_only_layers": [],
}  # fmt: skip
DEEPSEEK = {
    "model_type": "deepseek_v3", "vocab_size": 129280, "num_hidden_layers": 61, "hidden_size": 7168,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_attention_heads": 128, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "name"),
    [(MIXTRAL, "mixtral-8x7b"), (QWEN, "qwen3-30b-a3b"), (DEEPSEEK, "deepseek-v3")],
)
def test_a_hugging_face_config_gives_the_named_shape(tmp_path, config, name):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(config))
    assert model_shape(str(path)).parameters == SHAPES[name].parameters
    assert model_shape(str(path)).context == 0  # not known
    path.write_text(json.dumps(config | {"max_position_embeddings": SHAPES[name].context}))
    assert model_shape(str(path)).context == SHAPES[name].context > 0


def test_sizes_listed_for_each_layer_are_numbers_where_they_are_the_same(tmp_path):
    """As in Hunyuan-A13B's own config.json, which was refused: 80 B parameters, 13 B active."""
    path, lists = tmp_path / "hunyuan.json", ("moe_intermediate_size", "moe_topk", "num_shared_expert")
    config = {
        "model_type": "hunyuan_v1_moe", "vocab_size": 128167, "num_hidden_layers": 32, "hidden_size": 4096,
        "intermediate_size": 3072, "num_attention_heads": 32, "num_key_value_heads": 8, "num_experts": 64,
        "moe_intermediate_size": [3072] * 32, "moe_topk": [8] * 32, "num_shared_expert": [1] * 32,
        "tie_word_embeddings": True,
    }  # fmt: skip
    path.write_text(json.dumps(config))
    shape = model_shape(str(path))
    assert shape.parameters / 1e9 == pytest.approx(80, rel=0.01)
    path.write_text(json.dumps(config | {name: config[name][0] for name in lists}))
    assert model_shape(str(path)) == shape
    for listed in ([3072] * 31 + [6144], [3072] * 31 + [[3072]], [True] * 32, []):
        path.write_text(json.dumps(config | {"moe_intermediate_size": listed}))
        with pytest.raises(InputError, match="moe_intermediate_size must be a positive whole number"):
            model_shape(str(path))
    path.write_text(json.dumps(config | {"num_hidden_layers": 0, "moe_topk": []}))
    with pytest.raises(InputError, match=r"hunyuan\.json: "):
        model_shape(str(path))


@pytest.mark.parametrize("entry", ["rope_scaling", "rope_parameters"])
def test_positions_may_be_stretched(tmp_path, entry):
    """As Qwen's models are for longer texts, by an entry beside positions that stay as they were."""
    path = tmp_path / "qwen.json"
    for scaling, context in (
        ({"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}, 131072),
        ({"factor": 1.0, "original_max_position_embeddings": 32768}, 40960),
        ({"type": "default"}, 40960),
        (None, 40960),
    ):
        path.write_text(json.dumps(QWEN | {"max_position_embeddings": 40960, entry: scaling}))
        assert model_shape(str(path)).context == context


def test_a_model_folder_is_known_by_its_name(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MIXTRAL))
    assert model_shape(str(folder)).name == "mine"


def test_olmoe_norms_all_heads_at_once(tmp_path):
    """OLMoE-1B-7B, arXiv 2409.02060: 6.92 B; its weight files hold 6,919,161,856."""
    config = {
        "model_type": "olmoe", "vocab_size": 50304, "num_hidden_layers": 16, "hidden_size": 2048,
        "intermediate_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64,
        "num_experts_per_tok": 8,
    }  # fmt: skip
    path = tmp_path / "olmoe.json"
    path.write_text(json.dumps(config))
    assert from_config_json(path).parameters == 6_919_161_856


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "model_type is None"),
        (
            '{"model_type": "llama"}',
            "model_type is 'llama'; known are deepseek_v2, .* read it as one of them with --like",
        ),
        (
            json.dumps({key: value for key, value in QWEN.items() if key != "num_experts"}),
            "num_experts or num_local_experts or .* is missing",
        ),
        (json.dumps(QWEN | {"num_experts_per_tok": 200}), "cannot visit 200 of 128 experts"),
        (json.dumps(QWEN | {"hidden_size": "wide"}), "hidden_size must be a positive whole number, got 'wide'"),
    ],
)
def test_a_bad_config_is_said_in_one_line(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        from_config_json(path)
    assert str(path) in str(caught.value)


def _run_config(folder: Path, **model) -> Path:
    """As `pauca moe train` writes it."""
    path = folder / "config.yaml"
    config = to_dict(replace(LM_SIZES["xl"], vocabulary=4096)) | model
    path.write_text(yaml.safe_dump({"data": {"sources": ["a.txt"]}, "model": config, "train": {"steps": 4}}))
    return path


def test_the_config_of_a_training_gives_its_model(tmp_path):
    path = _run_config(tmp_path)
    expected = replace(replace(LM_SIZES["xl"], vocabulary=4096).shape, name=tmp_path.name)
    assert model_shape(str(path)) == model_shape(str(tmp_path)) == expected


def test_a_config_in_the_working_directory_is_named_after_it(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    _run_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert model_shape("config.json").name == model_shape("config.yaml").name == tmp_path.name


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"heads": 3}, "heads must be a multiple of kv_heads"),
        ({"width": 3}, 'can not match "width"'),
        ({"dense_layers": 24}, "one must be MoE"),
    ],
)
def test_a_bad_training_config_is_said_in_one_line(tmp_path, model, message):
    path = _run_config(tmp_path, layers=24, **model)
    with pytest.raises(InputError, match=message) as caught:
        model_shape(str(path))
    assert str(caught.value).count(str(path)) == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[", "seed: 1", "data: {}\nmodel: {backbone: conv4}\ntrain: {}"])
def test_a_config_of_something_else_is_refused(tmp_path, text):
    path = tmp_path / "other.yml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"other.yml: .* give the config.yaml of a `pauca moe train` run"):
        model_shape(str(path))


def test_short_names_are_those_of_known_models():
    assert {name: model_shape(name).name for name in ALIASES} == ALIASES
    assert not ALIASES.keys() & (SHAPES.keys() | LM_SIZES.keys())
    assert model_shape("Mixtral-8x7B") == model_shape("mixtral")


def test_a_mistyped_name_is_put_right():
    with pytest.raises(InputError, match=r"unknown model 'qwen-30b' \(did you mean qwen3-30b\?\)"):
        model_shape("qwen-30b")


def test_an_unknown_name_lists_the_known():
    with pytest.raises(InputError, match=r"unknown model 'gpt'.*deepseek-v3.*config.json"):
        model_shape("gpt")
    with pytest.raises(InputError, match="cannot be read"):
        model_shape("absent.json")


def test_a_folder_without_a_model_is_said_to_have_none(tmp_path):
    with pytest.raises(
        InputError, match=r"holds neither a config\.yaml nor a config\.json; give the folder of a model"
    ):
        model_shape(str(tmp_path))


def test_impossible_shapes_are_refused():
    attention = GroupedQueryAttention(heads=4, kv_heads=2, head_dim=16)
    with pytest.raises(ConfigError, match="need dense_width"):
        ModelShape("x", 256, 2, 64, attention, experts=4, top_k=2, width=32, dense_layers=1)
    with pytest.raises(ConfigError, match="3 dense layers are more than its 2"):
        ModelShape("x", 256, 2, 64, attention, experts=4, top_k=2, width=32, dense_layers=3, dense_width=64)
    dense = ModelShape("x", 256, 2, 64, attention, experts=4, top_k=2, width=32, dense_layers=2, dense_width=64)
    with pytest.raises(ConfigError, match="one must be MoE"):
        PlanTask(dense, gpus=8, memory=80 * 10**9)
    with pytest.raises(ConfigError, match="cannot share"):
        GroupedQueryAttention(heads=4, kv_heads=3, head_dim=16)
    with pytest.raises(ConfigError, match="kv_rank must be a positive whole number"):
        LatentAttention(heads=4, kv_rank=0, nope_dim=16, rope_dim=8, value_dim=16)


def test_a_family_is_for_config_files_alone(tmp_path):
    path = tmp_path / "shape.yaml"
    path.write_text("vocabulary: 1000")
    for model in ("qwen3-30b", "toy", str(path)):
        with pytest.raises(InputError, match=r"--like mixtral: says how to read a config\.json, and "):
            model_shape(model, "mixtral")
