"""The shapes of published models, by name: sizes as in their config.json files."""

from pauca.moe.models.shapes import GroupedQueryAttention, LatentAttention, ModelShape


def _deepseek_v3_attention() -> LatentAttention:
    return LatentAttention(heads=128, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128, query_rank=1536)


def _lite_attention() -> LatentAttention:
    return LatentAttention(heads=16, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128)


SHAPES: dict[str, ModelShape] = {
    shape.name: shape
    for shape in (
        ModelShape(
            "deepseek-v3", vocabulary=129280, layers=61, hidden=7168, attention=_deepseek_v3_attention(),
            experts=256, top_k=8, width=2048, shared_width=2048, dense_layers=3, dense_width=18432, groups=8,
            top_groups=4, router_bias=True, context=163840,
        ),
        ModelShape(
            "deepseek-v2-lite", vocabulary=102400, layers=27, hidden=2048, attention=_lite_attention(),
            experts=64, top_k=6, width=1408, shared_width=2816, dense_layers=1, dense_width=10944, context=163840,
        ),
        ModelShape(
            "moonlight-16b-a3b", vocabulary=163840, layers=27, hidden=2048, attention=_lite_attention(),
            experts=64, top_k=6, width=1408, shared_width=2816, dense_layers=1, dense_width=11264, router_bias=True,
            context=8192,
        ),
        ModelShape(
            "qwen3-235b-a22b", vocabulary=151936, layers=94, hidden=4096,
            attention=GroupedQueryAttention(heads=64, kv_heads=4, head_dim=128, qk_norm="head"),
            experts=128, top_k=8, width=1536, context=40960,
        ),
        ModelShape(
            "qwen3-30b-a3b", vocabulary=151936, layers=48, hidden=2048,
            attention=GroupedQueryAttention(heads=32, kv_heads=4, head_dim=128, qk_norm="head"),
            experts=128, top_k=8, width=768, context=40960,
        ),
        ModelShape(
            "mixtral-8x7b", vocabulary=32000, layers=32, hidden=4096,
            attention=GroupedQueryAttention(heads=32, kv_heads=8, head_dim=128),
            experts=8, top_k=2, width=14336, context=32768,
        ),
        ModelShape(
            "mixtral-8x22b", vocabulary=32000, layers=56, hidden=6144,
            attention=GroupedQueryAttention(heads=48, kv_heads=8, head_dim=128),
            experts=8, top_k=2, width=16384, context=65536,
        ),
    )
}  # fmt: skip
"""Published models by name."""


ALIASES = {
    "16b": "moonlight-16b-a3b",
    "671b": "deepseek-v3",
    "mixtral": "mixtral-8x7b",
    "moonlight": "moonlight-16b-a3b",
    "qwen3-30b": "qwen3-30b-a3b",
    "qwen3-235b": "qwen3-235b-a22b",
}
"""Short names of `SHAPES`."""
