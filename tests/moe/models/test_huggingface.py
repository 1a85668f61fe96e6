"""Models of transformers, tiny and with random weights, compute the same with pauca's experts as with their own."""

import copy
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pauca.errors import ConfigError, InputError, PaucaError
from pauca.moe import Recipe, convert, frozen_weights, unconvert
from pauca.moe.layer.experts import ExpertBank

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MANY = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "intermediate_size": 96}
LATENT = {  # DeepSeek's attention, and one dense layer before the others
    **{"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16},
    **{"first_k_dense_replace": 1, "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32},
    **{"intermediate_size": 96, "routed_scaling_factor": 1.5},
}
GROUPS = {"n_group": 4, "topk_group": 2}
FAMILIES = {
    "Qwen3Moe": {**MANY, "norm_topk_prob": True},
    "Qwen3Moe, weights as they are": {**MANY, "norm_topk_prob": False},
    "Qwen2Moe": {**MANY, "shared_expert_intermediate_size": 64},
    "Mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 96},
    "Olmoe": {"num_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 32},
    "DeepseekV2": {**LATENT, "n_shared_experts": 2, "topk_method": "greedy"},
    "DeepseekV2, groups": {**LATENT, **GROUPS, "n_shared_experts": 1, "topk_method": "group_limited_greedy"},
    "DeepseekV3": {**LATENT, **GROUPS, "n_shared_experts": 1},
}
WITH_ROUTER_LOGITS = ["Qwen3Moe", "Qwen2Moe", "Mixtral", "Olmoe"]
TOKENS = torch.arange(2 * 24).reshape(2, 24) * 31 % 61 + 3


def build(family: str, **changes: object) -> nn.Module:
    name = family.split(",")[0]
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **FAMILIES[family], **changes})
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("e_score_correction_bias"):
            buffer.normal_(std=0.1)
    return model


def with_one_moe_layer(family: str) -> nn.Module:
    """Rounding in one layer's experts can change what the next layer's router chooses, which is no rounding."""
    return build(family, num_hidden_layers=2 if "first_k_dense_replace" in FAMILIES[family] else 1)


def experts_of(model: nn.Module) -> list[nn.Module]:
    return [module for name, module in model.named_modules() if name.endswith("experts") and hasattr(module, "act_fn")]


@torch.no_grad()
def difference(a: Tensor, b: Tensor) -> float:
    """Relative to a, in the Euclidean norm."""
    return float((a - b).norm() / a.norm())


def gradients(model: nn.Module, **inputs: object) -> dict[str, Tensor]:
    model.zero_grad()
    model(TOKENS, labels=TOKENS, **inputs).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(difference(one[name], other[name]) for name in one if one[name].any())


@torch.no_grad()
def of_unit_variance(model: nn.Module) -> nn.Module:
    """As trained models are: experts add as much to the residual stream as it holds already."""
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.normal_(std=1.0 if "embed" in name else weight.shape[-1] ** -0.5)
    return model


# What docs/moe/huggingface.md says: of logits and gradients under bf16, fp8 and fp4.
ROUNDINGS = {
    "initial": ((0.0005, 0.01), (0.006, 0.12), (0.014, 0.35)),  # experts that add next to nothing
    "unit variance": ((0.003, 0.01), (0.03, 0.12), (0.08, 0.35)),
}


@pytest.mark.parametrize("weights", ROUNDINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_converted_model_computes_the_same_to_the_recipes_rounding(family, weights):
    """Logits, and the gradient of each weight. BF16 rounds by up to 2^-9, E4M3 by 2^-4, and E2M1 by 2^-2."""
    original = with_one_moe_layer(family)
    if weights == "unit variance":
        of_unit_variance(original)
    converted = copy.deepcopy(original)
    logits, expected = original(TOKENS).logits, gradients(original)
    recipes = (Recipe.bf16(), Recipe.fp8(), Recipe.fp4())
    for recipe, (of_logits, of_gradients) in zip(recipes, ROUNDINGS[weights], strict=True):
        convert(converted, recipe)
        assert 0 < difference(logits, converted(TOKENS).logits) < of_logits
        assert largest_difference(expected, gradients(converted)) < of_gradients


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bf16_model_loses_no_more_than_by_its_own_experts(family):
    """Against the FP32 model, with 5 % for luck."""
    exact = with_one_moe_layer(family)(TOKENS).logits
    model = with_one_moe_layer(family).bfloat16()
    own = difference(exact, model(TOKENS).logits.float())
    assert difference(exact, convert(model, Recipe.bf16())(TOKENS).logits.float()) < 1.05 * own


@pytest.mark.parametrize("family", FAMILIES)
def test_names_weights_and_files_stay_as_they_were(family, tmp_path):
    model = build(family)
    before = {name: weight.data_ptr() for name, weight in model.state_dict().items()}
    model.save_pretrained(tmp_path / "original")
    convert(model, Recipe.fp4()).save_pretrained(tmp_path / "converted")
    assert {name: weight.data_ptr() for name, weight in model.state_dict().items()} == before
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "original" / name).read_bytes() == (tmp_path / "converted" / name).read_bytes()


def test_a_trained_converted_model_is_loaded_by_transformers_alone(tmp_path):
    model = convert(build("Qwen3Moe"), Recipe.bf16())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gradients(model)
    optimizer.step()
    model.save_pretrained(tmp_path)
    assert any("experts.0.gate_proj" in name for name in load_file(tmp_path / "model.safetensors"))
    loaded = transformers.Qwen3MoeForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert all(type(experts).__name__ == "Qwen3MoeExperts" for experts in experts_of(loaded))
    assert torch.equal(loaded(TOKENS).logits, unconvert(model)(TOKENS).logits)


@pytest.mark.parametrize("family", WITH_ROUTER_LOGITS)
def test_router_logits_and_the_auxiliary_loss_are_the_models_own(family):
    model = build(family)
    expected = model(TOKENS, labels=TOKENS, output_router_logits=True)
    found = convert(model, Recipe.bf16())(TOKENS, labels=TOKENS, output_router_logits=True)
    assert len(found.router_logits) == 2
    torch.testing.assert_close(found.router_logits, expected.router_logits, rtol=0.01, atol=1e-4)
    torch.testing.assert_close(found.aux_loss, expected.aux_loss, rtol=1e-3, atol=0)


def test_padding_counts_in_the_auxiliary_loss_as_little_as_before_the_conversion():
    model, mask = build("Qwen3Moe"), torch.ones_like(TOKENS)
    mask[0, :17] = mask[1, :9] = 0

    def losses(model: nn.Module, pad: int) -> tuple[Tensor, Tensor]:
        tokens = torch.where(mask.bool(), TOKENS, pad)
        labels = torch.where(mask.bool(), TOKENS, -100)
        found = model(tokens, attention_mask=mask, labels=labels, output_router_logits=True)
        return found.loss, found.aux_loss

    expected = losses(model, 0)
    convert(model, Recipe.bf16())
    torch.testing.assert_close(losses(model, 0), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(losses(model, 7), losses(model, 0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_chooses_the_same_tokens(family):
    model = build(family)
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(TOKENS)}
    expected = model.generate(TOKENS, **options)
    assert torch.equal(convert(model, Recipe.bf16()).generate(TOKENS, **options), expected)
    with frozen_weights(convert(model, Recipe.fp4())):
        frozen = model.generate(TOKENS, **options)
    assert torch.equal(frozen, model.generate(TOKENS, **options))
    assert frozen.shape == expected.shape


def test_unconvert_gives_back_the_original_with_its_trained_weights():
    model, untouched = build("DeepseekV3"), build("DeepseekV3")
    convert(model, Recipe.fp4())
    assert unconvert(model) is model
    for experts, expected in zip(experts_of(model), experts_of(untouched), strict=True):
        assert type(experts) is type(expected)
        assert vars(experts).keys() == vars(expected).keys()
    assert torch.equal(model(TOKENS).logits, untouched(TOKENS).logits)

    weight = experts_of(convert(model, Recipe.fp4()))[0].down_proj
    optimizer = torch.optim.SGD([weight], lr=1.0)
    gradients(model)
    optimizer.step()
    assert experts_of(unconvert(model))[0].down_proj is weight
    assert not torch.equal(model(TOKENS).logits, untouched(TOKENS).logits)


def test_parts_of_a_model_have_recipes_of_their_own():
    model = build("Olmoe", num_hidden_layers=4)
    convert(model.model.layers[1:], Recipe.fp4(), recompute="experts")
    convert(model.model.layers[3], Recipe.bf16())
    first, second, third, fourth = experts_of(model)
    assert not isinstance(first, ExpertBank)
    assert second.recipe == third.recipe == Recipe.fp4()
    assert second.recompute == third.recompute == "experts"
    assert (fourth.recipe, fourth.recompute) == (Recipe.bf16(), "none")


@pytest.mark.parametrize("recipe", [Recipe.bf16(), Recipe.fp8(), Recipe.fp4()], ids=lambda recipe: recipe.precision)
def test_checkpointing_whole_layers_changes_no_gradient(recipe):
    """It runs routers twice, on the same numbers."""
    model = convert(build("Mixtral"), recipe).train()
    expected = gradients(model)
    for reentrant in (True, False):
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        assert largest_difference(expected, gradients(model, use_cache=False)) == 0


@pytest.mark.parametrize("recompute", ["activation", "experts"])
def test_recomputing_in_the_experts_changes_no_bf16_gradient(recompute):
    model = convert(build("Mixtral"), Recipe.bf16())
    expected = gradients(model)
    assert largest_difference(expected, gradients(convert(model, Recipe.bf16(), recompute))) == 0


def test_under_autocast_the_experts_compute_as_without():
    model = build("Qwen3Moe")
    with torch.autocast("cpu", torch.bfloat16):
        own = model(TOKENS).logits
        converted = convert(model, Recipe.bf16())(TOKENS).logits
    assert difference(own.float(), converted.float()) < 0.01


def test_frozen_experts_get_no_gradient_and_pass_it_on():
    model = convert(build("Qwen3Moe"), Recipe.fp4())
    expected = gradients(model)
    for experts in experts_of(model):
        experts.requires_grad_(False)
    found = gradients(model)
    assert not any("experts" in name for name in found)
    assert largest_difference({name: expected[name] for name in found}, found) == 0


def test_low_rank_updates_reach_the_experts():
    """As PEFT adapts weights that are no linear layers: it parametrizes them after conversion."""

    class LowRank(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.full((*weight.shape[:2], 1), 0.1))
            self.b = nn.Parameter(torch.zeros(weight.shape[0], 1, weight.shape[2]))

        def forward(self, weight: Tensor) -> Tensor:
            return weight + self.a @ self.b

    model = convert(build("Qwen3Moe"), Recipe.fp4()).requires_grad_(False)
    before = model(TOKENS).logits
    experts = experts_of(model)[0]
    update = LowRank(experts.gate_up_proj)
    nn.utils.parametrize.register_parametrization(experts, "gate_up_proj", update)
    assert torch.equal(model(TOKENS).logits, before)
    gradients(model)
    assert update.b.grad.any()
    with pytest.raises(InputError, match=r"experts has been wrapped since its conversion .*: unwrap it first"):
        unconvert(model)
    nn.utils.parametrize.remove_parametrizations(experts, "gate_up_proj")
    assert not isinstance(experts_of(unconvert(model))[0], ExpertBank)


def test_four_bits_keep_a_fraction_of_the_bytes():
    """Per layer, pauca's fp4 recipe keeps less than a fifth of what the model's own experts keep."""
    model = build(
        "Qwen3Moe", num_experts=2, num_experts_per_tok=2, hidden_size=128, moe_intermediate_size=128
    ).bfloat16()
    x = torch.randn(512, 128, dtype=torch.bfloat16, requires_grad=True)
    ids = torch.tensor([[0, 1]]).repeat(512, 1)
    weights = torch.full((512, 2), 0.5, dtype=torch.bfloat16)
    (experts,) = experts_of(model.model.layers[:1])
    own = bytes_kept(lambda: experts(x, ids, weights), experts)
    convert(experts, Recipe.fp4())
    assert 5 * bytes_kept(lambda: experts(x, ids, weights), experts) < own


def bytes_kept(forward: Callable[[], Tensor], experts: nn.Module) -> int:
    """Of what autograd saves in one forward, each storage once, without the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in experts.parameters()}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    assert result.requires_grad
    return sum(kept.values())


def test_frozen_weights_are_guarded():
    model = convert(build("Olmoe"), Recipe.fp8())
    with frozen_weights(model):
        model(TOKENS)
        with pytest.raises(InputError, match=r"model\.layers\.0\.mlp\.experts is in use by frozen_weights"):
            unconvert(model)
        with torch.no_grad():
            experts_of(model)[0].down_proj.mul_(2)
        with pytest.raises(PaucaError, match="expert weights changed under frozen_weights"):
            model(TOKENS)


def test_a_converted_model_can_be_copied_and_stored():
    model = convert(build("Mixtral"), Recipe.fp4())
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    for other in (copy.deepcopy(model), torch.load(stored, weights_only=False)):
        assert torch.equal(other(TOKENS).logits, model(TOKENS).logits)
        assert type(experts_of(unconvert(other))[0]).__name__ == "MixtralExperts"


@pytest.mark.parametrize("recipe", [None, Recipe.bf16(), Recipe.fp4()], ids=["own", "bf16", "fp4"])
def test_training_learns_as_fast(recipe):
    """Sequences of period 4: thirty steps of Adam bring the loss from ln 64 to below a twentieth of it."""
    model = build("Qwen3Moe").train()
    if recipe is not None:
        convert(model, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tokens = torch.randint(3, 64, (8, 4), generator=torch.Generator().manual_seed(0)).repeat(1, 6)
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
    assert loss < 0.05 * torch.tensor(64.0).log()


GPT_OSS = {**SIZES, "num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 64, "head_dim": 16}


def gpt_oss() -> nn.Module:
    """Biases, a limited and shifted gate that alternates with up, and transposed weights."""
    torch.manual_seed(0)
    model = transformers.GptOssForCausalLM(transformers.GptOssConfig(**GPT_OSS)).eval()
    for name, weight in model.named_parameters():
        if name.endswith("_bias"):
            nn.init.normal_(weight, std=0.3)
    return model


class TestOtherLayouts:
    """gpt-oss stands for all whose weights are no SwiGLU experts in pauca's own layout (test_families has the rest)."""

    def test_a_model_computes_the_same_to_bf16s_rounding(self):
        model = gpt_oss()
        logits, expected = model(TOKENS).logits, gradients(model)
        convert(model, Recipe.bf16())
        assert 0 < difference(logits, model(TOKENS).logits) < 0.005
        found = gradients(model)
        experts = [name for name in expected if "experts" in name and ".0." in name]
        assert len(experts) == 4  # two weights and two biases
        assert max(difference(expected[name], found[name]) for name in experts) < 0.05

    def test_names_weights_and_files_stay_as_they_were(self, tmp_path):
        model = gpt_oss()
        model.save_pretrained(tmp_path / "original")
        convert(model, Recipe.fp4()).save_pretrained(tmp_path / "converted")
        for name in ("model.safetensors", "config.json"):
            assert (tmp_path / "original" / name).read_bytes() == (tmp_path / "converted" / name).read_bytes()
        untouched = gpt_oss()
        assert torch.equal(unconvert(model)(TOKENS).logits, untouched(TOKENS).logits)

    def test_frozen_weights_are_made_once_and_guarded(self):
        model = convert(gpt_oss(), Recipe.fp8())
        expected = model(TOKENS).logits
        with frozen_weights(model):
            assert torch.equal(model(TOKENS).logits, expected)
            assert torch.equal(model(TOKENS).logits, expected)
            with torch.no_grad():
                experts_named(model)[0].down_proj.mul_(2)
            with pytest.raises(PaucaError, match="expert weights changed under frozen_weights"):
                model(TOKENS)

    @pytest.mark.parametrize("recipe", [Recipe.bf16(), Recipe.fp4()], ids=lambda recipe: recipe.precision)
    def test_checkpointing_and_copies_change_no_bit(self, recipe):
        model = convert(gpt_oss(), recipe).train()
        expected = gradients(model)
        assert largest_difference(expected, gradients(copy.deepcopy(model))) == 0
        model.activation_checkpointing_enable({"use_reentrant": False})
        assert largest_difference(expected, gradients(model, use_cache=False)) == 0

    def test_layers_with_different_recipes(self):
        model = gpt_oss()
        convert(model, Recipe.fp4())
        convert(model.model.layers[0], Recipe.bf16(), recompute="experts")
        first, second = experts_named(model)
        assert (first.recipe, first.recompute, second.recipe) == (Recipe.bf16(), "experts", Recipe.fp4())
        gradients(model)


def experts_named(model: nn.Module) -> list[nn.Module]:
    return [module for name, module in model.named_modules() if name.endswith(".experts")]


class TestRefusals:
    """In one line, with nothing changed."""

    @contextmanager
    def refused(self, model: nn.Module, reason: str, error: type[PaucaError] = InputError) -> Iterator[None]:
        with pytest.raises(error, match=reason) as caught:
            yield
        assert "\n" not in str(caught.value)
        assert not any(isinstance(module, ExpertBank) for module in model.modules())

    def test_models_without_experts(self):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, intermediate_size=64))
        with self.refused(model, "no experts found in LlamaForCausalLM"):
            convert(model, Recipe.fp4())

    def test_other_activation_functions(self):
        model = build("Mixtral", hidden_act="mish")
        with self.refused(model, r"model\.layers\.0\.mlp\.experts \(MixtralExperts\) .* is none that pauca computes"):
            convert(model, Recipe.fp4())

    def test_half_precision(self):
        model = build("Olmoe").half()
        with self.refused(model, "load the model in bfloat16 or float32"):
            convert(model, Recipe.fp4())

    def test_odd_sizes_in_any_layer(self):
        model = build("Qwen3Moe", moe_intermediate_size=40)
        with self.refused(model, r"experts: width must be a multiple of 32 under the fp4 recipe, got 40", ConfigError):
            convert(model, Recipe.fp4())
        convert(model, Recipe.bf16())

    def test_hooks_that_replace_forward(self):
        model = build("Olmoe")
        experts = experts_of(model)[0]
        experts.forward = experts.forward
        with self.refused(model, r"it is spread over devices \(device_map, distributed_config\)"):
            convert(model, Recipe.fp4())

    def test_wrapped_weights(self):
        class Quantized(nn.Parameter):
            pass

        model = build("Olmoe")
        experts = experts_of(model)[1]
        experts.down_proj = Quantized(experts.down_proj.data)
        with self.refused(model, r"its weights are wrapped \(Quantized\): convert before sharding"):
            convert(model, Recipe.fp4())

    @pytest.mark.parametrize("version", ["4.57.6", "6.0.0"])
    def test_versions_that_store_experts_otherwise(self, version, monkeypatch):
        model = build("Olmoe")
        monkeypatch.setattr("importlib.metadata.version", lambda _: version)
        with self.refused(model, rf"transformers {version} stores .* 'transformers>=5,<6'", PaucaError):
            convert(model, Recipe.fp4())


def test_the_package_imports_without_transformers():
    code = "import sys, pauca.moe; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
